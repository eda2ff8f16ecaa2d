"""Rollouts that stay what they are for as long as an environment's version does: on a change, raise
`-vN`.

To write down a new version's: `python -m pytest tests/envs/test_golden.py`, and copy what the
failure shows.
"""

from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest

from envs_registry import ENVIRONMENTS

# The networks that the rewards are of: with another one they are others.
DIGITS = (  # `unlearning/digits`, model seed 0
    "f072adef19f611f89a83fb91c8612643cda1570a26f46e883e1b5f8b12176390"
)
FACTLM = "a02d5469df4489eb2ebefd8294a8133767680e1d0f9a93b2b21ad94b795e69f4"  # the bundled one
WORLD_INFO = [
    "retain_accuracy",
    "retain_accuracy_before",
    "forget_accuracy",
    "forget_accuracy_before",
    "utility",
    "edit",
    "is_success",
    "edit_step",
]
V1_INFO = [*WORLD_INFO, "network", "goal"]
STREAM_INFO = [
    "reliability",
    "generalization",
    "locality",
    "tf_efficacy",
    "edit_step",
    "edits_done",
    "is_success",
]


class Golden(NamedTuple):
    """An environment's arguments, its unedited network, five rewards, and the keys of the infos of
    step and reset.

    `within` is larger where singular directions of large random updates, one after the other, make
    more of rounding.
    """

    arguments: dict[str, int]
    network: str
    rewards: list[float]
    step_keys: list[str]
    reset_keys: list[str]
    within: float = 1e-5


STREAM = Golden(
    {"horizon": 2, "edits_per_step": 3},
    FACTLM,
    [-6.671391, -13.51879, -6.088082, -11.930625, -6.471248],
    STREAM_INFO,
    ["skipped"],
    within=1e-4,
)
GOLDEN = {
    "MaskWorld-v0": Golden(
        {"episode_length": 2},
        DIGITS,
        [0.927658, 0.861870, 0.880014, 0.873476, 0.869851],
        WORLD_INFO,
        ["network", "goal"],
    ),
    "MaskWorld-v1": Golden(
        {"episode_length": 2},
        DIGITS,
        [-0.059617, -0.122552, 0.050635, 0.146755, -0.085557],
        V1_INFO,
        V1_INFO,
    ),
    "ShiftWorld-v0": Golden(
        {"episode_length": 2},
        DIGITS,
        [0.923686, 0.878175, 0.921122, 0.909399, 0.891628],
        WORLD_INFO,
        ["network", "goal"],
    ),
    "ShiftWorld-v1": Golden(
        {"episode_length": 2},
        DIGITS,
        [-0.061789, -0.018702, -0.028643, 0.024883, -0.043286],
        V1_INFO,
        V1_INFO,
    ),
    "LifelongLLMEdit-v0": STREAM,
    "LifelongLLMEdit-v1": STREAM,
}


def rollout(env_id):
    """Five steps from seed 0, two to an episode: rewards, and the keys of the infos of step and
    reset."""
    env = gym.make(f"editgym:{env_id}", **GOLDEN[env_id].arguments)
    random = np.random.RandomState(0)  # its numbers never change; those of default_rng may
    _, first = env.reset(seed=0)
    rewards, keys = [], set()
    for _ in range(5):
        _, reward, terminated, _, info = env.step(
            random.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        )
        rewards.append(reward)
        keys.add(tuple(info))
        if terminated:
            env.reset()
    (step_keys,) = keys
    return rewards, list(step_keys), list(first), env.unwrapped.network.base_hash


def test_every_environment_has_a_golden_rollout():
    assert GOLDEN.keys() == {row.id for row in ENVIRONMENTS}


@pytest.mark.parametrize("env_id", GOLDEN)
def test_golden_rollout(env_id):
    rewards, step_keys, reset_keys, network = rollout(env_id)
    golden = GOLDEN[env_id]
    assert network == golden.network
    assert rewards == pytest.approx(golden.rewards, abs=golden.within)
    assert (step_keys, reset_keys) == (golden.step_keys, golden.reset_keys)
