"""The worlds with a debiasing task: what `test_registry` asserts of them with their default one."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from editgym.tasks import make_task

TASK = {"task": "debiasing/templates"}
# Of model seed 0, like the rewards: with another network they are others.
NETWORK = "67c21ef2c71997b65e2da71f06b48e54fdfa30b25fe3a4929f538554101a5b44"
REWARDS = {
    "MaskWorld-v0": [3.092398, 2.996861, 3.07658, 2.977291],
    "ShiftWorld-v0": [3.241754, 3.243693, 3.232381, 3.177087],
}
INFO = [
    "general_accuracy",
    "general_accuracy_before",
    "unbiased_accuracy",
    "unbiased_accuracy_before",
    "utility",
    "edit",
    "is_success",
    "edit_step",
]


@pytest.mark.parametrize("check", [check_env, check_env_sb3])
def test_checkers_have_nothing_to_say(make, world, check):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*out of date", DeprecationWarning)
        check(make(world, **TASK))


def test_action_is_the_whole_update_and_the_rank_can_be_chosen(make, world):
    env = make(world, **TASK)
    assert env.action_space.shape == env.observation_space.shape == (32,)
    assert make(world, rank=1, **TASK).action_space.shape == (18,)
    assert env.spec.kwargs == gym.spec(world).kwargs | TASK


def test_one_candidate_is_the_single_environment(make, world, rollout, actions):
    single, vector = make(world, **TASK), gym.make_vec(f"editgym:{world}", num_envs=1, **TASK)
    drawn = actions(single.action_space, 5)
    vector.reset(seed=3)
    single.reset(seed=3)
    for action in drawn:
        _, rewards, _, _, infos = vector.step(action[None])
        _, reward, _, _, info = single.step(action)
        single.reset()
        assert rewards[0] == pytest.approx(reward, abs=1e-6)
        assert infos["final_info"]["unbiased_accuracy"][0] == pytest.approx(
            info["unbiased_accuracy"]
        )


def test_golden_rollout(make, world):
    env = make(world, episode_length=2, **TASK)
    random = np.random.RandomState(0)
    env.reset(seed=0)
    rewards, keys = [], set()
    for _ in range(4):
        _, reward, terminated, _, info = env.step(random.uniform(-1, 1, 32).astype(np.float32))
        rewards.append(reward)
        keys.add(tuple(info))
        if terminated:
            env.reset()
    assert env.network.base_hash == NETWORK
    assert rewards == pytest.approx(REWARDS[world], abs=1e-5)
    assert keys == {tuple(INFO)}


def test_equal_seeds_are_equal_rollouts(make, world, rollout):
    first, again, other = (
        rollout(make(world, episode_length=3, **TASK), seed, 12) for seed in (5, 5, 6)
    )
    assert equal(first, again, exact=True)
    assert not equal(first, other)


def test_reward_is_alpha_general_plus_beta_unbiased(make, world, actions):
    env = make(world, signal="accuracy", **TASK)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(actions(env.action_space)[0])
    assert reward == pytest.approx(
        info["general_accuracy"] + 3 * info["unbiased_accuracy"], abs=1e-6
    )


def test_an_edit_that_knows_the_data_is_above_none_and_none_above_destruction(make, world):
    env = make(world, **TASK)
    env.reset(seed=0)
    action = torch.full((32,), -0.01, requires_grad=True)
    optimizer = torch.optim.Adam([action], lr=0.05)
    for _ in range(100):
        env.reset()
        loss = -env.differentiable_step(action).reward.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            action.clamp_(-1, 1)

    def score(chosen, **arguments):
        scored = make(world, **TASK, **arguments)
        scored.reset(seed=1)
        return scored.step(chosen)[1]

    nothing = score(np.zeros(32, np.float32))
    assert score(action.detach().numpy()) > nothing + 0.005
    signs = (
        np.sign(np.array([[1], [-1]]) * np.ones((2, 16))).astype(np.float32).ravel()
    )  # never toxic
    destructive = {"shift_limit": 5.0} if world == "ShiftWorld-v0" else {}
    assert (
        score(-np.ones(32, np.float32) if world == "MaskWorld-v0" else signs, **destructive)
        < nothing - 0.3
    )


def test_rewards_come_from_the_policy_split(make, world):
    env = make(world, **TASK)
    assert env.task is make_task("debiasing/templates")
    assert set(env.task.splits.test.unbiased.identities).isdisjoint(
        env.task.splits.policy.unbiased.identities
    )
    env.reset(seed=0)
    env.step(np.zeros(32, np.float32))
    assert (
        env.evaluate(env.journal).metrics["flip_rate"]
        == env.evaluate(env.journal).metrics["flip_rate_before"]
    )


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_it_is_drawn(world, mode, actions):
    env = gym.make(f"editgym:{world}", render_mode=mode, **TASK)
    env.reset(seed=0)
    env.step(actions(env.action_space)[0])
    frame = env.render()
    assert (
        "debiasing/templates: mitigate bias" in frame if mode == "ansi" else frame.dtype == np.uint8
    )


@pytest.mark.parametrize("world", ["MaskWorld-v0", "ShiftWorld-v0"])
def test_a_limit_truncates_many_candidates_as_a_single_one(world):
    arguments = {"episode_length": 3, "max_episode_steps": 2}
    single = gym.make(f"editgym:{world}", **arguments)
    vector = gym.make_vec(f"editgym:{world}", num_envs=2, **arguments)
    single.reset(seed=0)
    vector.reset(seed=(0, 1))
    ends = []
    for _ in range(4):
        action = np.zeros(single.action_space.shape, np.float32)
        *_, terminated, truncated, _ = single.step(action)
        _, _, terminations, truncations, _ = vector.step(np.stack([action, action]))
        assert terminations.tolist() == [terminated] * 2
        assert truncations.tolist() == [truncated] * 2
        ends.append(truncated)
        if truncated:
            single.reset()
    assert ends == [False, True, False, True]
    with pytest.raises(ValueError, match="max_episode_steps must be 1 or more"):
        gym.make_vec(f"editgym:{world}", num_envs=2, max_episode_steps=0)
