import gymnasium as gym
import pytest

from editgym.envs.metering import count_reward_calls


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
