"""Every agent keeps the protocol: it stays in its budget, edits, and is the same after a save and a load."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.catalogue import AGENTS, SB3_ALGORITHMS, agent_class, agent_names, make_agent
from agents.debiasing import DebiasingAgent
from agents.editors.stream import StreamEditor
from agents.protocol import Agent, Budget, Unsupported
from editgym.envs.metering import count_reward_calls

SMALL = {
    **{name: {"num_envs": 8, "n_steps": 8, "batch_size": 64} for name in ("ppo", "trpo", "recurrent_ppo")},
    "a2c": {"num_envs": 8, "n_steps": 8},
    **{name: {"num_envs": 8, "learning_starts": 16, "batch_size": 16, "buffer_size": 200}
       for name in ("sac", "td3", "ddpg", "tqc", "crossq")},
    "ars": {"n_delta": 4},
    "cmaes": {"population": 8}, "random": {"num_envs": 8},
}


def small(name):
    return make_agent(name, **SMALL.get(name, {}))


def same_edits(one, other):
    return len(one) == len(other) and all(
        torch.equal(a.update.matrix(), b.update.matrix()) if hasattr(a, "update")
        else all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
        for a, b in zip(one, other, strict=True))


ON_WORLDS = [name for name in agent_names() if name != "retrain"
             and not issubclass(agent_class(name), (StreamEditor, DebiasingAgent))]


@pytest.mark.parametrize("name", ON_WORLDS)
def test_learns_within_budget_edits_and_survives_save_and_load(name, tmp_path):
    spec, agent = gym.spec("MaskWorld-v0"), small(name)
    assert isinstance(agent, Agent)
    calls = 40 if name == "ars" else 200  # its linear policy has 2.6 million parameters
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=calls), seed=0)
    assert meter.calls <= calls
    env = gym.make(spec)
    journal = agent.edit(env)
    assert journal.base_hash == env.unwrapped.network.base_hash
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent")
    assert again.name == name
    assert same_edits(journal, again.edit(env))


@pytest.mark.parametrize("name", ["ppo", "sac", "cmaes", "random"])
def test_equal_seeds_give_equal_agents_and_other_seeds_others(name):
    spec = gym.spec("ShiftWorld-v0")
    journals = []
    for seed in (0, 0, 1):
        agent = small(name)
        agent.learn(spec, Budget(reward_calls=128), seed=seed)
        journals.append(agent.edit(gym.make(spec)))
    assert same_edits(journals[0], journals[1])
    assert not same_edits(journals[0], journals[2])


@pytest.mark.parametrize("name", ["random", "ppo"])
def test_seconds_end_the_learning(name):
    agent = small(name)
    with count_reward_calls() as meter:
        agent.learn(gym.spec("MaskWorld-v0"), Budget(seconds=0.5), seed=0)
    assert 0 < meter.calls < 100_000


def test_cmaes_learns_to_forget():
    spec = gym.spec("MaskWorld-v0")
    agent, env = make_agent("cmaes"), gym.make(spec)
    agent.learn(spec, Budget(reward_calls=12_800), seed=0)
    agent.edit(env)
    metrics = env.unwrapped.task.evaluate(env.unwrapped.journal)
    assert metrics["forget_accuracy"] < metrics["forget_accuracy_before"] - 0.2
    assert metrics["retain_accuracy"] > metrics["retain_accuracy_before"] - 0.1


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


def test_no_edit_leaves_the_weights_bitwise():
    spec, agent = gym.spec("ShiftWorld-v0"), make_agent("no_edit")
    agent.learn(spec, Budget(reward_calls=0), seed=0)
    env = gym.make(spec)
    agent.edit(env)
    network = env.unwrapped.network
    assert all(torch.equal(now, base) for now, base in zip(network.weights, network.base_weights, strict=True))


@pytest.mark.parametrize(("name", "config", "message"), [
    ("pppo", {}, "there is no 'pppo'.*ppo"),
    ("no.such.module:Agent", {}, "cannot import"),
    ("agents.protocol:Budget", {}, "lacks learn, edit"),
    ("cmaes", {"sigmas": 1}, "sigmas.*its arguments: sigma"),
    ("cmaes", {"sigma": -1}, "sigma must be greater than 0"),
])
def test_a_wrong_agent_or_argument_is_named(name, config, message):
    with pytest.raises(ValueError, match=message):
        make_agent(name, **config)


@pytest.mark.parametrize(("config", "budget", "message"), [
    ({"n_stepss": 3}, Budget(2_048), "takes no hyperparameter n_stepss"),
    ({}, Budget(100), "100 reward calls do not pay for one rollout of 1024"),
    ({}, Budget(), "needs reward_calls or seconds"),
])
def test_ppo_names_what_it_cannot_do(config, budget, message):
    with pytest.raises(ValueError, match=message):
        make_agent("ppo", **config).learn(gym.spec("MaskWorld-v0"), budget, seed=0)


@pytest.mark.parametrize("name", ["ppo", "cmaes"])
def test_an_untrained_agent_does_not_edit_or_save(name, tmp_path):
    agent = make_agent(name)
    with pytest.raises(RuntimeError, match=r"call learn\(\)"):
        agent.edit(gym.make("MaskWorld-v0"))
    with pytest.raises(RuntimeError, match=r"call learn\(\)"):
        agent.save(tmp_path)


def test_every_row_of_the_catalogue_is_a_class():
    for name in (*AGENTS, *SB3_ALGORITHMS):
        assert isinstance(agent_class(name), type)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="reward_calls must be 0 or more"):
        Budget(reward_calls=-1)


def test_longer_episodes_are_searched_as_one_sequence():
    spec = gym.make("ShiftWorld-v0", episode_length=3).spec
    agent = small("random")
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=100), seed=0)
    assert meter.calls == 96  # 4 generations of 8 sequences of 3 edits
    assert np.asarray(agent.actions).shape[0] == 3
    assert len(agent.edit(gym.make(spec))) == 3
