"""RLEdit, MALMEN and MEND on streams of facts: what they learn, what they keep, and what they
refuse."""

import pytest
import torch

from agents.editors.stream import stream_process
from agents.hypernetworks.mend_malmen import Malmen, Mend
from agents.hypernetworks.rledit import RLEdit
from agents.protocol import Agent, Budget
from editgym.envs.metering import count_reward_calls
from editgym.weights import LowRankFactors, Shift
from editgym.weights.closed_form import UltraEdit

NAMES = ["rledit", "malmen", "mend"]
QUICK = {"sequences": 2, "validate_every": 0, "learning_rate": 1e-2, "step_learning_rate": 0.1}


def mean_reward(agent, env):
    """Of the steps of an open stream, edited by the agent without a graph."""
    process = stream_process(env)
    agent.begin(process)
    rewards = []
    while not process.over:
        rewards.append(float(process.advance(agent.entries(process)).reward))
    return sum(rewards) / len(rewards)


# --- what they are --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_by_its_name(name, trained, stream_env):
    agent = trained(name)
    assert isinstance(agent, Agent)
    assert (agent.name, agent.access) == (name, "gradient")
    env = stream_env(split="test")
    journal = agent.edit(env)
    sites = [site.name for site in stream_process(env).sites]
    assert [(entry.site, entry.step) for entry in journal] == [
        (site, step) for step in range(3) for site in sites
    ]
    for entry in journal:
        assert isinstance(entry.update, LowRankFactors)
        assert entry.operator == Shift()
        assert entry.update.matrix().any()
        assert not entry.update.a.requires_grad
    assert 0 <= env.unwrapped.evaluate(journal).metrics["reliability"] <= 1


def test_an_untrained_policy_makes_the_first_update_as_long_as_ultraedits(trained, stream_env):
    agent, env = trained(sequences=0), stream_env(split="test", horizon=1)
    process = stream_process(env)
    capture = process.capture
    updates = [entry.update for entry in agent.edit(env)]
    for site, update, keys, gradients in zip(
        process.sites, updates, capture.keys, capture.gradients, strict=True
    ):
        expected = UltraEdit(site.shape).update(keys, gradients, 1e-2)
        assert float(update.matrix().norm()) == pytest.approx(
            float(expected.matrix().norm()), rel=1e-3
        )


def test_no_sequences_teach_nothing_and_cost_nothing(trained):
    with count_reward_calls() as meter:
        agents = [
            trained(sequences=0),
            trained(validate_every=5, sequences=0),
            trained(sequences=1),
        ]
    assert meter.calls == 3
    states = [agent.policy.state_dict() for agent in agents]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not states[0]["network.networks.32x64.0.b"].any()
    assert agents[0].policy.network.keys[0].count == 0
    assert agents[2].policy.state_dict()["network.networks.32x64.0.b"].any()


@pytest.mark.parametrize("name", NAMES)
def test_training_raises_the_reward_of_streams_it_never_saw(name, trained, stream_env):
    reward = {"back_depth": 1, "locality_weight": 0.2}
    env = {"edits_per_step": 4, "horizon": 3 if name == "rledit" else 1}
    own = {
        "learning_rate": 3e-3,
        "step_learning_rate": 0.2,
        "step_size": 0.03,
        "linear_decay": False,
    }
    stream, means = stream_env(**env, **reward), []
    for sequences in (0, 10 if name == "rledit" else 20):
        agent = trained(name, sequences=sequences, train_env=reward, env=env, **own)
        rewards = []
        for seed in range(50, 56):
            stream.reset(seed=seed)
            rewards.append(mean_reward(agent, stream))
        means.append(sum(rewards) / len(rewards))
    assert means[1] > means[0] + 0.1, means


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_size", [None, 0.003])
def test_the_released_mode_leads_every_step_size_to_eleven_times_itself_or_minus_nine_times(
    trained, step_size
):
    first = step_size or 1e-2  # the task's
    agent = trained(
        mode="released",
        step_size=step_size,
        sequences=1,
        step_learning_rate=10 * first,
        learning_rate=1e-5,
    )
    steps = agent.policy.network.steps.detach() / first
    assert not agent.policy.network.log_step
    assert all(min(abs(step - 11), abs(step + 9)) < 0.11 for step in steps.tolist()), steps


@pytest.mark.parametrize("step_size", [1e-6, 0.003])
def test_the_released_rate_may_be_the_number_that_stands_in_the_released_code(trained, step_size):
    agent = trained(mode="released", step_size=step_size, step_learning_rate=1e-5, sequences=1)
    moved = (agent.policy.network.steps.detach() - step_size).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-5), rtol=0.02, atol=0)


def test_the_released_mode_is_what_the_released_code_does(stream_spec, monkeypatch):
    from agents.hypernetworks import editor as module

    seen = []

    class Watched(module.SequenceLearner):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            seen.append((self.process.settings.reward, self._optimizer, self.learning))

    monkeypatch.setattr(module, "SequenceLearner", Watched)
    agent, made = RLEdit("released"), []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self, *args: (made.append(1), step(self, *args))[1]
    )
    with count_reward_calls() as meter:
        agent.learn(stream_spec(), Budget(), seed=0)
    assert (meter.calls, len(made)) == (3, 1), "one sequence, one step of Adam"
    reward, optimizer, learning = seen[0]
    assert (reward.back_depth, reward.norm_weight, reward.reference, reward.locality_weight) == (
        9,
        0,
        "previous",
        0.6,
    )
    assert [group["lr"] for group in optimizer.param_groups] == [1e-5, pytest.approx(10 * 1e-2)]
    assert learning.max_grad_norm is None
    steps = agent.policy.network.steps.detach() / 1e-2
    assert all(min(abs(step - 11), abs(step + 9)) < 0.11 for step in steps.tolist()), steps


def test_modes_and_agents_differ_in_what_they_learn_with(stream_spec):
    paper, released = RLEdit().learning(), RLEdit("released").learning()
    assert (paper.sequences, released.sequences) == (40, 1)
    assert paper.train_env["back_depth"] == 5
    assert RLEdit(train_env={"back_depth": 0}).learning().train_env == {
        **paper.train_env,
        "back_depth": 0,
    }
    for agent, rule in ((Malmen(), "malmen"), (Mend(), "mend")):
        settings = agent.learning().train_env
        assert (settings["horizon"], settings["back_depth"]) == (
            1,
            0,
        ), "single batches on the unedited model"
        assert agent.make_network([(4, 4)], 1.0, 0).rule == rule
    assert RLEdit(rule="mend").make_network([(4, 4)], 1.0, 0).rule == "mend"


def test_single_batches_are_of_the_unedited_model(trained, monkeypatch):
    from agents.hypernetworks.policy import HypernetworkPolicy

    changed = []
    losses = HypernetworkPolicy.losses

    def watched(self, process):
        changed.append(any(bool(delta.any()) for delta in process.decoder.deltas))
        return losses(self, process)

    monkeypatch.setattr(HypernetworkPolicy, "losses", watched)
    with count_reward_calls() as meter:
        trained("mend", sequences=3)
    assert changed == [False] * 3
    assert meter.calls == 3
    trained("rledit", sequences=1)
    assert changed[3:] == [False, True, True]
