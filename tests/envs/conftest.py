"""Environments, actions and rollouts."""

import gymnasium as gym
import numpy as np
import pytest


@pytest.fixture
def make():
    """`make(id, **arguments)`: an unwrapped environment."""
    return lambda id, **arguments: gym.make(f"editgym:{id}", **arguments).unwrapped


@pytest.fixture(params=["MaskWorld-v0", "ShiftWorld-v0"])
def world(request):
    """The id of each of the two worlds."""
    return request.param


@pytest.fixture
def actions():
    """`actions(space, n)`: n pseudo-random actions, the same in every run."""

    def draw(space, n=1, seed=0):
        return np.random.default_rng(seed).uniform(-1, 1, (n, *space.shape)).astype(np.float32)

    return draw


@pytest.fixture
def rollout(actions):
    """`rollout(env, seed, steps)`: what reset and every step gave, new episodes included."""

    def run(env, seed=0, steps=50, drawn=None):
        seen = [env.reset(seed=seed)]
        for action in actions(env.action_space, steps) if drawn is None else drawn:
            seen.append(env.step(action))
            if np.any(seen[-1][2]) and not isinstance(env, gym.vector.VectorEnv):
                seen.append(env.reset())
        return seen

    return run


@pytest.fixture
def without_timing():
    """`without_timing(rollout)`: the same without what wrappers measure in seconds."""
    return lambda seen: [
        (*rest, {key: value for key, value in info.items() if key not in ("episode", "_episode")})
        for *rest, info in seen
    ]
