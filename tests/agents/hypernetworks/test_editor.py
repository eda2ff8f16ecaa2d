"""Saving, loading and editing elsewhere, for all agents that learn from sequences."""

import json
from dataclasses import fields

import gymnasium as gym
import pytest
import torch

from agents.catalogue import agent_class, make_agent
from agents.editors.stream import CHECKPOINT, stream_process
from agents.hypernetworks.network import ShapeMismatchError, check_sites
from agents.hypernetworks.rledit import RLEdit
from agents.hypernetworks.saved import POLICY_FILE
from agents.hypernetworks.settings import Learning
from agents.protocol import Budget, Unsupported
from editgym.weights import EditJournal

NAMES = ["rledit", "malmen", "mend"]
QUICK = {"sequences": 2, "validate_every": 0, "learning_rate": 1e-2, "step_learning_rate": 0.1}


def matrices(journal):
    return [entry.update.matrix() for entry in journal]


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
def test_a_saved_policy_makes_the_same_edit_bitwise(
    name, settings, trained, stream_env, tmp_path, same_edits
):
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
    name, at, trained, stream_env, tmp_path, interrupted_edit, same_edits
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


def test_an_untrained_policy_goes_on_in_its_own_process(stream_env, tmp_path, interrupted_edit):
    """Its units settle while it edits, and that is no learning."""
    agent = make_agent("rledit", sequences=0)
    env = stream_env(split="test", journal_folder=str(tmp_path / "journal"))
    agent.learn(env.spec, Budget(), 0)
    interrupted_edit(agent, env, tmp_path / "state", 1)
    assert agent.edit(gym.make(env.spec), tmp_path / "state").steps > 1


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
    agent = make_agent(name)
    with pytest.raises(Unsupported, match="LifelongLLMEdit and ShiftWorld"):
        agent.learn(gym.spec("MaskWorld-v0"), Budget(), seed=0)
    with pytest.raises(Unsupported, match="LifelongLLMEdit and ShiftWorld"):
        agent.edit(gym.make("MaskWorld-v0"))


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


def test_other_shapes_are_an_error_that_names_the_site():
    here = [("a", (6, 20)), ("b", (6, 20))]
    check_sites(here, [("x", (6, 20)), ("y", (6, 20))])
    with pytest.raises(
        ShapeMismatchError,
        match=r"site y: it is 20 × 6 \(out × in\), the policy was trained on b of " r"6 × 20",
    ):
        check_sites(here, [("x", (6, 20)), ("y", (20, 6))])
    with pytest.raises(
        ShapeMismatchError,
        match=r"sites: the policy was trained on 2 \(\['a', 'b'\]\), the "
        r"environment has 1 \(\['x'\]\)",
    ):
        check_sites(here, [("x", (6, 20))])
    with pytest.raises(
        ShapeMismatchError,
        match=r"sites: the policy was trained on them in the order \['a', 'b'\], "
        r"not \['b', 'a'\]",
    ):
        check_sites(here, here[::-1])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rledit", {"mode": "released", "step_size": 0.02}),
        ("rledit", {"passes": 2, "rank": 3}),
        ("hiedit", {"gate": "random", "sites_per_step": 1}),
        ("mend", {}),
    ],
)
def test_an_agent_that_was_saved_without_its_settings_edits_as_before(
    name, settings, trained, stream_env, tmp_path, same_edits
):
    """Agents were saved so at first, with all that an edit depends on in the configuration."""
    agent = trained(name, **settings)
    first = agent.edit(stream_env(split="test"))
    agent.save(tmp_path)
    state = torch.load(tmp_path / POLICY_FILE, weights_only=True)
    del state["settings"]
    torch.save(state, tmp_path / POLICY_FILE)
    learning = {field.name for field in fields(Learning)}
    before = {k: v for k, v in agent.settings.as_dict().items() if k not in learning}
    (tmp_path / "agent.json").write_text(json.dumps({**before, **QUICK, **settings}))
    again = agent_class(name).load(tmp_path)
    assert same_edits(again.edit(stream_env(split="test")), first)
