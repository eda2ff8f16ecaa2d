"""RLEdit, MALMEN and MEND on streams of facts: what they learn, what they keep, and what they
refuse."""

import json

import gymnasium as gym
import pytest
import torch

from agents.catalogue import agent_class, make_agent
from agents.editors.stream import CHECKPOINT, stream_process
from agents.hypernetworks.editor import POLICY_FILE
from agents.hypernetworks.network import ShapeMismatchError
from agents.hypernetworks.rledit import Malmen, Mend, RLEdit
from agents.protocol import Agent, Budget, Unsupported
from editgym.envs.metering import count_reward_calls
from editgym.weights import EditJournal, LowRankFactors, Shift, SiteEdit
from editgym.weights.closed_form import UltraEdit

NAMES = ["rledit", "malmen", "mend"]
QUICK = {"sequences": 2, "validate_every": 0, "learning_rate": 1e-2, "step_learning_rate": 0.1}


@pytest.fixture
def trained(stream_spec):
    """`trained(name, seed, env arguments, **settings)`: an agent that learned on the tiny model."""

    def make(name="rledit", seed=0, env=None, **settings):
        agent = make_agent(name, **QUICK | settings)
        agent.learn(stream_spec(**env or {}), Budget(), seed)
        return agent

    return make


def matrices(journal):
    return [entry.update.matrix() for entry in journal]


def same_edits(one, other):
    return len(one) == len(other) and all(map(torch.equal, matrices(one), matrices(other)))


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


def test_in_shiftworld_it_learns_as_many_episodes_as_asked_or_released():
    assert (
        RLEdit().learning_in_worlds().sequences == Malmen().learning_in_worlds().sequences == 1_000
    )
    assert RLEdit(sequences=7).learning_in_worlds().sequences == 7
    assert RLEdit(mode="released").learning_in_worlds().sequences == 1
    assert RLEdit(mode="released").learning_in_worlds().train_env == {}
    for setting in ({"validate_every": 3}, {"train_env": {"decay": 0.5}}):
        with pytest.raises(
            ValueError, match=rf"^{next(iter(setting))} must be left out in ShiftWorld"
        ):
            RLEdit(**setting).learning_in_worlds()


def test_single_batches_are_of_the_unedited_model(trained, monkeypatch):
    from agents.hypernetworks.rledit import HypernetworkPolicy

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


# --- looking again --------------------------------------------------------------------------------


def test_a_second_look_has_the_first_update_in_effect(trained, stream_env):
    agent, env = trained(step_size=0.1, sequences=0, passes=2), stream_env(split="test", horizon=1)
    once = trained(step_size=0.1, sequences=0)
    process = stream_process(env)
    agent.begin(process)
    once.begin(process)
    first = [entry.update for entry in once.entries(process)]
    twin = process.decoder.fresh()
    twin.apply(
        *[
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, first, strict=True)
        ]
    )
    again = twin.capture(process.prompts)
    expected = once.policy.network(again.keys, again.gradients)
    found = [entry.update for entry in agent.entries(process)]
    for total, one, two in zip(found, first, expected, strict=True):
        torch.testing.assert_close(
            total.matrix(), one.matrix() + two.matrix().detach(), rtol=1e-4, atol=1e-6
        )
        assert two.matrix().norm() > 0.05 * one.matrix().norm()
        assert total.a.shape[1] == 2 * one.a.shape[1]
    assert agent.policy.network.keys[0].count == len(process.capture.keys[0]), (
        "a batch is counted once"
    )
    assert not process.decoder.journal.entries


def test_a_second_look_learns_through_both_updates(trained, make_process):
    agent, process = trained(step_size=0.1, sequences=0, passes=2), make_process()
    agent.policy.losses(process).backward()
    both = agent.policy.network.steps.grad.clone()
    agent.policy.network.steps.grad = None
    agent.policy.passes = 1
    agent.policy.losses(make_process()).backward()
    assert (both - agent.policy.network.steps.grad).abs().max() > 1e-3


def test_no_system_larger_than_the_batchs_tokens_is_solved_in_a_training_step(
    make_process, trained, monkeypatch
):
    agent, process = trained(sequences=0), make_process()
    tokens, solved = len(process.capture.keys[0]), []
    solve = torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda a, b: (solved.append(len(a)), solve(a, b))[1])
    for name in ("inv", "pinv", "lstsq", "cholesky", "svd", "eigh", "qr"):
        monkeypatch.setattr(torch.linalg, name, lambda *_, name=name, **__: pytest.fail(name))
    agent.policy.losses(process).backward()
    assert set(solved) == {tokens}
    assert tokens < min(process.sites[0].shape)


# --- saving, loading, other models ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rledit", {}),
        ("rledit", {"mode": "released"}),
        ("rledit", {"passes": 2, "rule": "mend", "rank": 3, "blocks": 2}),
        ("malmen", {"ridge": 0.5}),
        ("mend", {"train_env": {"locality_weight": 2.0}}),
        ("rledit", {"sequences": 0}),
    ],
)
def test_a_saved_policy_makes_the_same_edit_bitwise(name, settings, trained, stream_env, tmp_path):
    agent = trained(name, **settings)
    first = agent.edit(stream_env(split="test"))
    agent.save(tmp_path)
    again = agent_class(name).load(tmp_path)
    assert again.config == agent.config
    assert again.sites == agent.sites
    assert same_edits(again.edit(stream_env(split="test")), first)
    assert same_edits(agent.edit(stream_env(split="test")), first), "editing teaches nothing"
    assert not same_edits(agent.edit(stream_env(1, split="test")), first)
    assert json.loads((tmp_path / "agent.json").read_text()) == agent.config
    assert not list(tmp_path.glob("*.partial"))


def test_a_policy_edits_another_model_with_sites_of_the_same_shapes(trained, stream_env, tmp_path):
    trained().save(tmp_path)
    agent = RLEdit.load(tmp_path)
    other = stream_env(split="test", sites=["model.layers.[12].mlp.down_proj"])
    journal = agent.edit(other)
    assert {entry.site for entry in journal} == {f"model.layers.{i}.mlp.down_proj" for i in (1, 2)}
    assert journal.steps == 3


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (
            ["model.layers.[23].mlp.up_proj"],
            r"site model\.layers\.2\.mlp\.up_proj: it is 64 × 32 \(out × in\), the policy "
            r"was trained on model\.layers\.2\.mlp\.down_proj of 32 × 64",
        ),
        (
            ["model.layers.2.mlp.down_proj"],
            r"sites: the policy was trained on 2 .*, the environment has 1",
        ),
    ],
)
def test_a_policy_refuses_sites_of_other_shapes(sites, message, trained, stream_env, tmp_path):
    trained().save(tmp_path)
    env = stream_env(split="test", sites=sites)
    with pytest.raises(ShapeMismatchError, match=message):
        RLEdit.load(tmp_path).edit(env)
    assert not env.unwrapped.journal.entries


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_edits_a_gpt2(name, trained, stream_env, tiny_gpt2):
    """Its sites are transposed `Conv1D` weights of two shapes."""
    shape = {"model": tiny_gpt2, "sites": ["transformer.h.[23].mlp.*"]}
    agent = trained(name, sequences=1, env=shape)
    assert {site[1] for site in agent.sites} == {(32, 128), (128, 32)}
    env = stream_env(split="test", **shape)
    journal = agent.edit(env)
    assert len(journal) == 12
    replayed = stream_process(env).decoder.fresh()
    replayed.replay(journal)
    assert all(map(torch.equal, replayed.weights, stream_process(env).decoder.weights))


@pytest.mark.parametrize("edits", [1, 5])
def test_any_number_of_edits_per_step(edits, trained, stream_env):
    agent = trained(env={"edits_per_step": edits})
    env = stream_env(split="test", edits_per_step=edits, horizon=4)
    agent.edit(env)
    assert all(torch.isfinite(weight).all() for weight in stream_process(env).decoder.weights)
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupted_edit_goes_on_to_the_same_journal(
    name, at, trained, stream_env, tmp_path, interrupted_edit
):
    agent = trained(name)
    agent.save(tmp_path / "agent")
    whole = agent.edit(stream_env(split="test"))
    env = stream_env(split="test", journal_folder=str(tmp_path / "journal"))
    interrupted_edit(agent, env, tmp_path / "state", at)
    assert (tmp_path / "state" / CHECKPOINT).is_file()
    resumed = (
        agent_class(name).load(tmp_path / "agent").edit(gym.make(env.spec), tmp_path / "state")
    )
    assert same_edits(resumed, whole)
    assert [(entry.site, entry.step) for entry in resumed] == [
        (entry.site, entry.step) for entry in whole
    ]


def test_an_interrupted_edit_is_not_gone_on_with_by_a_policy_that_learned_something_else(
    trained, stream_env, tmp_path, interrupted_edit
):
    one, other = (trained(seed=seed) for seed in (0, 1))
    env = stream_env(split="test", journal_folder=str(tmp_path / "journal"))
    interrupted_edit(one, env, tmp_path / "state", at=1)
    before = (tmp_path / "state" / CHECKPOINT).read_bytes()
    with pytest.raises(
        ValueError,
        match=r"holds an interrupted edit that is another one: learned is '\w+' there and",
    ):
        other.edit(gym.make(env.spec), tmp_path / "state")
    assert (tmp_path / "state" / CHECKPOINT).read_bytes() == before
    assert one.edit(gym.make(env.spec), tmp_path / "state").steps == 3


def test_a_replayed_journal_gives_the_edited_weights_bitwise(trained, stream_env, tmp_path):
    env = stream_env(split="test")
    journal = trained().edit(env)
    decoder = stream_process(env).decoder
    replayed = decoder.fresh()
    replayed.replay(EditJournal.load(journal.save(tmp_path / "journal.safetensors")))
    assert all(map(torch.equal, replayed.weights, decoder.weights))
    decoder.rollback(0)
    assert all(map(torch.equal, decoder.weights, decoder.base_weights))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mode", "public"),
        ("rule", "rome"),
        ("passes", 0),
        ("passes", 1.0),
        ("step_size", 0.0),
        ("step_size", -1),
        ("step_size", float("nan")),
        ("ridge", 0),
        ("ridge", None),
        ("blocks", 0),
        ("rank", 0),
        ("rank", True),
        ("sequences", -1),
        ("patience", 0),
        ("learning_rate", float("inf")),
    ],
)
def test_an_argument_out_of_range_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {value!r}$"):
        RLEdit(**{argument: value})


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_named(name):
    with pytest.raises(ValueError, match=r"\['sequence'\].*|sequence.*sequences"):
        make_agent(name, sequence=3)


def test_what_has_not_learned_cannot_edit_or_be_saved(stream_env, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"rledit has no policy yet: call learn\(\) or load\(\) first"
    ):
        RLEdit().policy  # noqa: B018 - a property that raises
    with pytest.raises(RuntimeError, match="no policy yet"):
        RLEdit().save(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="no policy yet"):
        RLEdit().edit(stream_env(split="test"))


def test_a_folder_without_a_policy_is_an_error(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match="no agent"):
        RLEdit.load(tmp_path)
    trained(sequences=0).save(tmp_path)
    (tmp_path / POLICY_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no {POLICY_FILE}"):
        RLEdit.load(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_mask_world_has_no_sums(name):
    agent = make_agent(name, **QUICK)
    with pytest.raises(Unsupported, match="LifelongLLMEdit-v0 and ShiftWorld-v0"):
        agent.learn(gym.spec("MaskWorld-v0"), Budget(), seed=0)
    with pytest.raises(Unsupported, match="LifelongLLMEdit-v0 and ShiftWorld-v0"):
        agent.edit(gym.make("MaskWorld-v0"))


# --- on a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_step_on_the_gpu_is_that_on_the_cpu(trained, stream_spec, stream_env, tmp_path):
    on_cpu, on_gpu = (trained(sequences=1, env={"device": device}) for device in ("cpu", "cuda"))
    for name, one in on_cpu.policy.state_dict().items():
        torch.testing.assert_close(
            on_gpu.policy.state_dict()[name].cpu(), one, rtol=0.05, atol=2e-3, msg=name
        )
    on_gpu.save(tmp_path)
    env = stream_env(split="test", device="cuda")
    journal = RLEdit.load(tmp_path).edit(env)
    expected = RLEdit.load(tmp_path).edit(stream_env(split="test"))
    assert {weight.device.type for weight in stream_process(env).decoder.weights} == {"cuda"}
    for one, other in zip(matrices(journal), matrices(expected), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0.01, atol=1e-4)
