"""What all agents against bias keep: no rewards, no test split, other tasks refused."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.catalogue import AGENTS, make_agent
from agents.protocol import Budget, Unsupported
from editgym.envs.metering import count_reward_calls
from editgym.tasks.debiasing.task import DebiasingTask

COMPETITORS = ("last_layer_fine_tune", "site_fine_tune", "linear_frontier", "cda_reweight", "leace")


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitor_asks_for_no_reward_and_survives_save_and_load(name, env, tmp_path):
    assert name in AGENTS
    agent = make_agent(name)
    assert agent.access == "data"
    with count_reward_calls() as meter:
        agent.learn(env.unwrapped.spec, Budget(), seed=3)
        journal = agent.edit(env)
    assert meter.calls == 0
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent").edit(env)
    assert len(journal) == len(again)
    for one, other in zip(journal, again, strict=True):
        assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in one.tensors.items())


@pytest.mark.parametrize("name", ["linear_frontier", "cda_reweight"])
def test_competitor_mitigates_the_bundled_bias(name):
    gains, losses = [], []
    for seed in (1, 4):
        env = gym.make("editgym:ShiftWorld-v0", task="debiasing/templates", model_seed=seed)
        metrics = env.unwrapped.task.evaluate(make_agent(name).edit(env))
        gains.append(metrics["unbiased_accuracy"] - metrics["unbiased_accuracy_before"])
        losses.append(metrics["general_accuracy_before"] - metrics["general_accuracy"])
    assert np.mean(gains) > 0
    assert max(losses) < 0.03


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitor_refuses_other_tasks(name):
    with pytest.raises(Unsupported, match="unlearning/digits is not a debiasing task"):
        make_agent(name).learn(gym.spec("MaskWorld-v0"), Budget(), seed=0)


def test_unlearning_refuses_debiasing():
    with pytest.raises(Unsupported, match="debiasing/templates is not an unlearning task"):
        make_agent("fine_tune").learn(
            gym.make("MaskWorld-v0", task="debiasing/templates").spec, Budget(), seed=0
        )


def test_no_competitor_sees_the_test_split(monkeypatch):
    seen = []
    real = DebiasingTask.labelled
    monkeypatch.setattr(
        DebiasingTask, "labelled", lambda self, split: (seen.append(split), real(self, split))[1]
    )
    for name in COMPETITORS:
        make_agent(name).edit(gym.make("editgym:ShiftWorld-v0", task="debiasing/templates"))
    assert set(seen) == {"policy", "validation"}
