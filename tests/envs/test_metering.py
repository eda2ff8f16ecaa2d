import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.envs.metering import count_reward_calls
from editgym.envs.protocol import gradient_env


def test_every_candidate_of_every_environment_is_counted(world, make, actions):
    env, vector = make(world), gym.make_vec(f"editgym:{world}", num_envs=3)
    env.reset(seed=0)
    vector.reset(seed=0)
    with count_reward_calls() as outer:
        env.step(actions(env.action_space)[0])
        with count_reward_calls() as inner:
            vector.step(actions(vector.action_space)[0])
        env.reset()
        env.step(actions(env.action_space)[0])
    env.reset()
    env.step(actions(env.action_space)[0])
    assert (outer.calls, inner.calls) == (5, 3)


def test_refused_actions_and_resets_are_not_counted(world, make, actions):
    env = make(world)
    with count_reward_calls() as meter:
        env.reset(seed=0)
        with pytest.raises(ValueError, match="action"):
            env.step(actions(env.action_space)[0] + 9)
    assert meter.calls == 0


@pytest.mark.parametrize("action", ["coefficients", "factors"])
def test_every_rewarded_step_of_a_stream_is_counted(action):
    env = gym.make(
        "editgym:LifelongLLMEdit-v0",
        horizon=3,
        edits_per_step=1,
        sites=["model.layers.5.mlp.down_proj"],
        action=action,
    )
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape, np.float32)
    with count_reward_calls() as meter:
        env.step(still)
        assert meter.calls == 1
        env.step(still)
        assert meter.calls == 2
        if action == "coefficients":
            gradient_env(env).differentiable_step(torch.from_numpy(still))
            assert meter.calls == 3
