"""ROME and MEMIT: their algebra; and what all editors at subjects do to a model."""

import pytest
import torch

from agents.catalogue import agent_class, make_agent
from agents.editors.rome_memit import memit_update, rank_one_updates
from agents.editors.stream import stream_process
from agents.editors.targets import target_shifts
from editgym.weights import EditJournal

NAMES = ("rome", "memit", "alphaedit", "memit_seq")
STEPS = 3  # in the fixture `environment`


def close(one, other, tolerance):
    return float((one - other).norm() / other.norm()) < tolerance


def problem(n=5, d=12, out=7, batches=4):
    """S₀⁻¹, W, and batches of keys and values as rows."""
    root = torch.randn(d, d, dtype=torch.float64)
    return (
        root @ root.mT / d + 0.1 * torch.eye(d, dtype=torch.float64),
        torch.randn(out, d, dtype=torch.float64),
        [
            (torch.randn(n, d, dtype=torch.float64), torch.randn(n, out, dtype=torch.float64))
            for _ in range(batches)
        ],
    )


def test_rome_meets_its_constraint_and_works_in_sequence():
    c, weight, ((keys, values), *_) = problem()
    factor = torch.linalg.cholesky(c)
    one = weight + rank_one_updates(weight, keys[:1], values[:1], factor).matrix()
    assert torch.allclose(one @ keys[0], values[0], atol=1e-10)
    expected = weight
    for k, v in zip(keys, values, strict=True):
        direction = torch.linalg.solve(c, k)
        expected = expected + torch.outer(v - expected @ k, direction) / (k @ direction)
    ours = weight + rank_one_updates(weight, keys, values, factor).matrix()
    assert close(ours, expected, 1e-10)
    assert torch.allclose(ours @ keys[-1], values[-1])


@pytest.mark.parametrize("n", [1, 5, 20])
def test_memit_equals_its_dense_formula(n):
    c, _, ((keys, residuals), *_) = problem(n)
    dense = residuals.mT @ keys @ (0.3 * c + keys.mT @ keys).inverse()
    assert close(
        memit_update(keys, residuals, torch.linalg.cholesky(c), 0.3).matrix(), dense, 1e-10
    )


def test_rome_in_a_model_gives_v_at_k(
    model,
    environment,
    editor,
):
    env = environment(model, horizon=1, edits_per_step=1)
    env.reset(seed=0)
    process = stream_process(env)
    agent = editor("rome")
    agent.begin(process)
    batch = agent.subject_batch(process, process.requests)
    site = agent._site
    index = process.sites.index(site)
    key, hidden = map(batch.means, batch.states(process.decoder).read(site, site))
    shift = target_shifts(process.decoder, batch, site, hidden, agent.settings)
    wanted = process.decoder.weights[index] @ key[0] + shift[0]
    process.decoder.apply(*agent.entries(process))
    assert torch.allclose(
        process.decoder.weights[index] @ key[0], wanted, atol=1e-5 * float(wanted.abs().max())
    )


def target_losses(process, requests):
    batch = process.task.batch([(request.prompt, request.target) for request in requests])
    return process.decoder.losses(batch).mean()


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_raises_the_targets_probability(
    process,
    name,
    editor,
):
    agent = editor(name)
    agent.begin(process)
    before = process.decoder.losses(process.prompts).mean()
    process.decoder.apply(*agent.entries(process))
    assert process.decoder.losses(process.prompts).mean() < before - 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_journal_replays_bitwise(
    env,
    process,
    name,
    tmp_path,
    editor,
):
    journal = editor(name).edit(env)
    assert [entry.step for entry in journal] == [
        step for step in range(STEPS) for _ in range(len(journal) // STEPS)
    ]
    fresh = process.task.decoder.fresh()
    fresh.replay(EditJournal.load(journal.save(tmp_path / "journal.safetensors")))
    assert all(map(torch.equal, fresh.weights, process.decoder.weights))


@pytest.mark.parametrize("name", NAMES)
def test_save_and_load_and_checkpoints(
    model,
    name,
    tmp_path,
    interrupted_edit,
    environment,
    editor,
):
    agent = editor(name)
    agent.save(tmp_path / "agent")
    again = agent_class(name).load(tmp_path / "agent")
    assert again.config == agent.config
    env = environment(model)
    env.reset(seed=0)
    whole = agent.edit(env)
    env = environment(model, journal_folder=str(tmp_path / "journal"))
    env.reset(seed=0)
    interrupted_edit(again, env, tmp_path / "checkpoint")
    resumed = (
        agent_class(name)
        .load(tmp_path / "agent")
        .edit(environment(model, journal_folder=str(tmp_path / "journal")), tmp_path / "checkpoint")
    )
    assert all(
        torch.equal(a.update.matrix(), b.update.matrix())
        for a, b in zip(whole.entries, resumed.entries, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rome", {"tokens": 0}),
        ("rome", {"steps": 0}),
        ("rome", {"nonsense": 1}),
        ("memit", {"covariance_weight": 0}),
        ("memit", {"learning_rate": float("nan")}),
        ("alphaedit", {"threshold": -1}),
        ("alphaedit", {"ridge": 0}),
        ("memit_seq", {"ridge": "a"}),
        ("memit_seq", {"contexts": 1.5}),
        ("memit", {"decay": -1}),
    ],
)
def test_wrong_arguments_are_named(name, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_agent(name, **wrong)
