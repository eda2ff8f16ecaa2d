"""The oracle of unlearning, and fine-tuning beside it: no reward, whole networks as entries."""

import gymnasium as gym
import pytest

from agents.catalogue import make_agent
from agents.protocol import Budget, Unsupported
from editgym.envs.metering import count_reward_calls


@pytest.mark.slow
def test_fine_tuning_and_retraining_use_no_reward_and_retraining_forgets():
    spec = gym.spec("MaskWorld-v0")
    for name, forget_at_most in (("fine_tune", 1.0), ("retrain", 0.0)):
        agent, env = make_agent(name), gym.make(spec)
        with count_reward_calls() as meter:
            agent.learn(spec, Budget(), seed=0)
            journal = agent.edit(env)
        metrics = env.unwrapped.task.evaluate(journal)
        assert meter.calls == 0
        assert metrics["forget_accuracy"] <= forget_at_most
        assert metrics["retain_accuracy"] > 0.85
        assert [entry.kind for entry in journal] == ["replace_tensors"]


def test_retraining_is_unsupported_where_the_network_came_from_a_file(custom_task):
    with pytest.raises(Unsupported, match="trained elsewhere"):
        make_agent("retrain").learn(gym.make("MaskWorld-v0", **custom_task).spec, Budget(), seed=0)
