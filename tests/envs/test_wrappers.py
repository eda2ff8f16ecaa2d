"""Gymnasium's wrappers around the worlds, single and vectorised: all that take continuous actions
and flat observations."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.spaces import Box
from gymnasium.wrappers import vector

# What `DtypeObservation` and `RescaleAction` warn of concerns spaces that Gymnasium itself makes.
BY_GYMNASIUM = pytest.mark.filterwarnings(
    "error", "ignore:.*precision lowered", "ignore:overflow encountered in cast"
)
SIZE = 4_096 + 10  # the weights, and which of two goals it is


def made(**arguments):
    """A world with episodes of two edits."""
    return gym.make("MaskWorld-v1", goals=[3, 5], episode_length=2, batch_size=32, **arguments)


def filmed():
    """The same with frames."""
    return made(render_mode="rgb_array")


SINGLE = {
    "AddRenderObservation": lambda: wrappers.AddRenderObservation(filmed()),
    "Autoreset": lambda: wrappers.Autoreset(made()),
    "ClipAction": lambda: wrappers.ClipAction(made()),
    "ClipReward": lambda: wrappers.ClipReward(made(), -1, 1),
    "DelayObservation": lambda: wrappers.DelayObservation(made(), 1),
    "DtypeObservation": lambda: wrappers.DtypeObservation(made(), np.float64),
    "FlattenObservation": lambda: wrappers.FlattenObservation(made()),
    "FrameStackObservation": lambda: wrappers.FrameStackObservation(made(), 2),
    "MaxAndSkipObservation": lambda: wrappers.MaxAndSkipObservation(made(), 2),
    "NormalizeObservation": lambda: wrappers.NormalizeObservation(made()),
    "NormalizeReward": lambda: wrappers.NormalizeReward(made()),
    "NumpyToTorch": lambda: wrappers.NumpyToTorch(made()),
    "OrderEnforcing": lambda: wrappers.OrderEnforcing(made()),
    "PassiveEnvChecker": lambda: wrappers.PassiveEnvChecker(made()),
    "RecordEpisodeStatistics": lambda: wrappers.RecordEpisodeStatistics(made()),
    "RenderCollection": lambda: wrappers.RenderCollection(made(render_mode="rgb_array")),
    "RescaleAction": lambda: wrappers.RescaleAction(made(), np.float32(-2), np.float32(2)),
    "RescaleObservation": lambda: wrappers.RescaleObservation(
        made(), np.float32(-1), np.float32(1)
    ),
    "ReshapeObservation": lambda: wrappers.ReshapeObservation(made(), (2, SIZE // 2)),
    "StickyAction": lambda: wrappers.StickyAction(made(), 0.5),
    "TimeAwareObservation": lambda: wrappers.TimeAwareObservation(wrappers.TimeLimit(made(), 3)),
    "TimeLimit": lambda: wrappers.TimeLimit(made(), 1),
    "TransformAction": lambda: wrappers.TransformAction(
        made(), lambda action: action / 2, Box(-2, 2, (4_096,))
    ),
    "TransformObservation": lambda: wrappers.TransformObservation(
        made(), lambda seen: seen * 2, Box(-10, 10, (SIZE,))
    ),
    "TransformReward": lambda: wrappers.TransformReward(made(), lambda reward: 2 * reward),
}
# Gymnasium's own vector wrappers of observations refuse environments that reset in the same step.
VECTOR = {
    "ClipAction": ("same_step", lambda envs: vector.ClipAction(envs)),
    "ClipReward": ("same_step", lambda envs: vector.ClipReward(envs, -1, 1)),
    "DictInfoToList": ("same_step", lambda envs: vector.DictInfoToList(envs)),
    "DtypeObservation": ("next_step", lambda envs: vector.DtypeObservation(envs, np.float64)),
    "FlattenObservation": ("next_step", lambda envs: vector.FlattenObservation(envs)),
    "NormalizeObservation": ("next_step", lambda envs: vector.NormalizeObservation(envs)),
    "NormalizeReward": ("same_step", lambda envs: vector.NormalizeReward(envs)),
    "NumpyToTorch": ("same_step", lambda envs: vector.NumpyToTorch(envs)),
    "RecordEpisodeStatistics": ("same_step", lambda envs: vector.RecordEpisodeStatistics(envs)),
    "RescaleAction": ("same_step", lambda envs: vector.RescaleAction(envs, -2.0, 2.0)),
    "RescaleObservation": (
        "next_step",
        lambda envs: vector.RescaleObservation(envs, np.float32(-1), np.float32(1)),
    ),
    "TransformReward": ("same_step", lambda envs: vector.TransformReward(envs, lambda r: 2 * r)),
}


@pytest.fixture
def possible(request):
    """The name of a wrapper whose own dependencies are here."""
    if request.param == "NumpyToTorch":
        pytest.importorskip("array_api_compat", reason="gymnasium[array-api] is not installed")
    return request.param


@BY_GYMNASIUM
@pytest.mark.parametrize("possible", SINGLE, indirect=True)
def test_wrapped_environment_begins_and_ends_episodes(possible):
    name = possible
    env = SINGLE[name]()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    assert name == "NumpyToTorch" or observation in env.observation_space
    for _ in range(3):
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            assert np.isfinite(reward)
            over = terminated or truncated
        assert truncated == (name == "TimeLimit")
        env.reset()
    env.close()


@BY_GYMNASIUM
@pytest.mark.parametrize("possible", VECTOR, indirect=True)
def test_wrapped_vector_environment_goes_through_episodes(possible):
    mode, wrapper = VECTOR[possible]
    envs = gym.make_vec("ShiftWorld-v1", 2, autoreset_mode=mode, episode_length=2, batch_size=32)
    envs = wrapper(envs)
    envs.action_space.seed(0)
    envs.reset(seed=0)
    ends = 0
    for _ in range(6):
        _, rewards, terminated, _, _ = envs.step(envs.action_space.sample())
        assert np.isfinite(np.asarray(rewards)).all()
        ends += int(np.asarray(terminated).sum())
    assert ends == (6 if mode == "same_step" else 4)
    envs.close()
