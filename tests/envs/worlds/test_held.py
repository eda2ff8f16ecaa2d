"""Rewards are the same where the activations of the reward data would fill the memory."""

import gymnasium as gym
import numpy as np
import pytest
import torch

ARGUMENTS = {
    "a batch as large as the data": {"batch_size": 400},
    "a smaller batch": {"batch_size": 50},
    "one batch for all": {"batch_size": 50, "shared_batch": True},
    "accuracy": {"batch_size": 50, "signal": "accuracy"},
    "several networks and goals": {"batch_size": 50, "networks": [0, 1], "goals": [3, [1, 7]]},
}


def rewards(arguments, sites):
    """Rewards and infos of two steps of four candidates."""
    env = gym.make_vec(
        "editgym:ShiftWorld-v0", num_envs=4, sites=sites, episode_length=3, **arguments
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    steps = [env.step(env.action_space.sample()) for _ in range(2)]
    return env, [step[1] for step in steps], [step[4] for step in steps]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_rewards_are_computed_batch_by_batch(name, monkeypatch):
    env, held, infos = rewards(ARGUMENTS[name], ["fc1", "fc2"])
    network = type(env.unwrapped.task.networks[0])
    monkeypatch.setattr("editgym.weights.classifiers.network._MOST_HELD", 0)
    monkeypatch.setattr("editgym.envs.worlds.reward._NUMBERS_AT_A_TIME", 128 * 30)
    seen, activations = [], network.activations

    def watched(self, inputs, *more):
        seen.append(len(inputs))
        return activations(self, inputs, *more)

    monkeypatch.setattr(network, "activations", watched)
    _, found, others = rewards(ARGUMENTS[name], ["fc1", "fc2"])
    np.testing.assert_allclose(found, held, atol=1e-5)
    for own, other in zip(infos, others, strict=True):
        np.testing.assert_allclose(other["retain_accuracy"], own["retain_accuracy"], atol=1e-6)
        np.testing.assert_allclose(
            other["forget_accuracy_before"], own["forget_accuracy_before"], atol=1e-6
        )
    assert max(seen) == 30, "never the activations of all data"
    passes = 1 if "shared_batch" in ARGUMENTS[name] else 4
    assert sum(seen) == 2 * passes * 2 * ARGUMENTS[name]["batch_size"]


def test_gradients_pass_through_batches_too(monkeypatch):
    def gradient():
        env = gym.make("editgym:ShiftWorld-v0", sites=["fc2"], batch_size=50).unwrapped
        env.reset(seed=0)
        action = torch.full((env.layout.size,), 0.1, requires_grad=True)
        env.differentiable_step(action).reward[0].backward()
        return action.grad

    held = gradient()
    monkeypatch.setattr("editgym.weights.classifiers.network._MOST_HELD", 0)
    torch.testing.assert_close(gradient(), held, atol=1e-6, rtol=1e-4)
