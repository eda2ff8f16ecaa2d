"""Ascent on the reward's gradient: it finds the edit, keeps to its budget, and refuses the rest."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.catalogue import make_agent
from agents.protocol import Budget, Unsupported
from editgym.envs.metering import count_reward_calls


@pytest.mark.parametrize(
    ("world", "arguments"),
    [
        ("ShiftWorld-v1", {}),
        ("MaskWorld-v1", {}),
        ("ShiftWorld-v0", {"rank": 4}),
        ("ShiftWorld-v1", {"episode_length": 2}),
    ],
)
def test_it_forgets_a_class_and_keeps_the_rest(world, arguments):
    spec = gym.make(world, **arguments).spec
    agent = make_agent("reward_ascent", steps=80, learning_rate=0.1)
    agent.learn(spec, Budget(), seed=0)
    env = gym.make(spec)
    found = env.unwrapped.evaluate(agent.edit(env)).metrics
    assert found["forget_accuracy"] <= 0.1
    assert found["retain_accuracy"] >= found["retain_accuracy_before"] - 0.05


def test_a_step_is_adams_on_the_rewards_own_gradient():
    spec = gym.spec("ShiftWorld-v1")
    agent = make_agent("reward_ascent", steps=1, learning_rate=0.25)
    agent.learn(spec, Budget(), seed=3)
    env = gym.make(spec)
    env.reset(seed=3)
    action = np.zeros(env.action_space.shape, np.float32)
    (gradient,) = slopes(env, action)
    # Adam's first step is as long as the learning rate wherever there is a slope to speak of.
    clear = np.abs(gradient) > 1e-4
    assert clear.sum() > 1_000
    assert agent.actions[0][clear] == pytest.approx(0.25 * np.sign(gradient[clear]), rel=1e-3)


def slopes(env, action):
    """The gradient of the next step's reward by its action."""
    flat = torch.from_numpy(action).requires_grad_()
    return [
        gradient.numpy()
        for gradient in torch.autograd.grad(
            env.unwrapped.differentiable_step(flat).reward.sum(), flat
        )
    ]


def test_its_budget_is_kept():
    agent = make_agent("reward_ascent", steps=50)
    with count_reward_calls() as meter:
        agent.learn(gym.spec("ShiftWorld-v1"), Budget(reward_calls=7), seed=0)
    assert meter.calls == 7
    with pytest.raises(ValueError, match="0 reward calls do not pay for one episode of 1"):
        agent.learn(gym.spec("ShiftWorld-v1"), Budget(reward_calls=0), seed=0)


def test_streams_of_facts_are_refused():
    with pytest.raises(Unsupported, match="LifelongLLMEdit"):
        make_agent("reward_ascent").learn(gym.spec("LifelongLLMEdit-v1"), Budget(), seed=0)


def test_a_reward_without_a_gradient_is_refused():
    spec = gym.make("ShiftWorld-v1", signal="accuracy").spec
    with pytest.raises(ValueError, match='signal="accuracy" has no gradient'):
        make_agent("reward_ascent").learn(spec, Budget(), seed=0)
