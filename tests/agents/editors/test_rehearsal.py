"""Editors on streams with rehearsal: what they teach, what they leave alone, what nothing counts
twice."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.catalogue import make_agent
from agents.editors.covariance import covariances
from agents.editors.least_squares import RecursiveLeastSquares
from agents.editors.stream import stream_process
from agents.editors.subject_keys import NO_SUBJECT
from agents.editors.targets import SubjectBatch
from editgym.weights import Skip

STEPS, EDITS = 3, 4  # in the fixture `environment`
SITES = {"sites": ["model.layers.[23].mlp.*"]}
QUICK = {
    "ft_m": {"steps": 8, "learning_rate": 0.01},
    "ft_l": {"steps": 8, "learning_rate": 0.01, "epsilon": 0.02},
    "lora_merge": {"steps": 8, "learning_rate": 0.02, "rank": 2},
    "ultraedit": {"step_size": 1e-3, "passes": 2},
    "edit_grpo": {"editor": "ultraedit", "iterations": 2, "rank": 2},
    "grace": {"steps": 20, "learning_rate": 1.0},
    "in_context": {},
    "retrieve": {},
    "loc_ft_bf": {"epochs": 2, "learning_rate": 0.01, "batch_size": 4},
}
AT_SUBJECTS = ["rome", "memit", "alphaedit", "memit_seq"]
SOLVED = ["alphaedit", "memit_seq"]
ALONE = [
    "grace",
    "in_context",
    "retrieve",
    "loc_ft_bf",
]  # they teach new requests, or the whole stream


@pytest.fixture
def made(model, environment, editor):
    """`made(name, **arguments)`: an environment and an editor that is quick on it."""

    def make(name, **arguments):
        if name in AT_SUBJECTS:
            return environment(model, **arguments), editor(name)
        return environment(model, **SITES | arguments), make_agent(name, **QUICK[name])

    return make


def saved(journal, folder):
    return journal.save(folder / "journal.safetensors").read_bytes()


# --- what is taught -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ft_m", "ft_l", "lora_merge", "ultraedit", *AT_SUBJECTS])
def test_an_update_serves_new_and_rehearsed_requests(name, made):
    """One more edit of the same model: earlier requests are better known after it than after one
    that does not rehearse them."""
    losses = {}
    for rehearse in (0, EDITS):
        env, agent = made(name, rehearse=rehearse, horizon=2)
        env.reset(seed=0)
        process = stream_process(env)
        agent.settings = agent.resolved(env.spec)
        agent.begin(process)
        process.advance([])  # the first requests are not known yet
        process.advance(agent.entries(process))
        asked = [(request.prompt, request.target) for request in process.stream.requests]
        losses[rehearse] = process.decoder.losses(process.task.batch(asked))
    before = process.task.decoder.losses(process.task.batch(asked))
    for own in (losses[0][EDITS:], losses[EDITS][EDITS:]):
        assert own.mean() < before[EDITS:].mean()
    if name not in SOLVED:  # which solve again what they have solved before
        assert losses[EDITS][:EDITS].mean() < losses[0][:EDITS].mean() - 0.1


@pytest.mark.parametrize("name", ALONE)
def test_an_editor_that_needs_no_rehearsal_does_what_it_does_without(name, made, tmp_path):
    journals = []
    for rehearse in (0, 5):
        env, agent = made(name, rehearse=rehearse)
        env.reset(seed=0)
        journals.append(saved(agent.edit(env), tmp_path))
    assert journals[0] == journals[1]


def test_ultraedit_is_the_training_free_action(model, environment):
    env = environment(model, **SITES, rehearse=5, step_size=1e-3)
    env.reset(seed=0)
    make_agent("ultraedit").edit(env)
    weights = stream_process(env).decoder.weights
    twin = environment(model, **SITES, rehearse=5, step_size=1e-3)
    twin.reset(seed=0)
    for _ in range(STEPS):
        twin.step(twin.unwrapped.training_free_action())
    for one, other, base in zip(
        weights,
        stream_process(twin).decoder.weights,
        stream_process(twin).decoder.base_weights,
        strict=True,
    ):
        assert (one - base).norm() > 0
        assert (one - other).norm() < 1e-3 * (one - base).norm()


def test_edit_grpo_samples_answers_to_rehearsed_requests_by_their_own_prompts(made):
    env, agent = made("edit_grpo", rehearse=3)
    env.reset(seed=0)
    process = stream_process(env)
    agent.settings = agent.resolved(env.spec)
    agent.begin(process)
    process.advance([])
    groups = agent._sampler.groups(process)
    assert sorted(groups) == list(range(EDITS + 3))
    for place, group in enumerate(groups.values()):
        request = process.batch.taught[place]
        assert group[0] == request.prompt
        whole = process.stream.requests[process.batch.places[place]]
        if place < EDITS:
            assert set(group) & set(whole.rephrases)
        else:
            assert all(text.endswith(request.prompt) for text in group)


# --- an interruption ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*QUICK, *AT_SUBJECTS])
def test_an_interrupted_stream_goes_on_to_the_same_journal(name, made, tmp_path, interrupted_edit):
    env, agent = made(name, rehearse=3, journal_folder=str(tmp_path / "whole"))
    env.reset(seed=0)
    whole = saved(agent.edit(env), tmp_path)
    env, agent = made(name, rehearse=3, journal_folder=str(tmp_path / "parts"))
    env.reset(seed=0)
    interrupted_edit(agent, env, tmp_path / "state")
    torch.manual_seed(99)
    _, resumed = made(name)
    assert saved(resumed.edit(gym.make(env.spec), tmp_path / "state"), tmp_path) == whole


# --- subjects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AT_SUBJECTS)
def test_a_rehearsed_request_without_its_subject_is_left_out_and_not_skipped(
    name, made, monkeypatch
):
    env, agent = made(name, rehearse=EDITS)
    env.reset(seed=0)
    process = stream_process(env)
    agent.begin(process)
    whole = process.stream.requests
    changed = tuple(
        replace(request, subject="Nobody") if place in (1, EDITS + 2) else request
        for place, request in enumerate(whole)
    )
    monkeypatch.setattr(process, "stream", replace(process.stream, requests=changed))
    process._batch = process._next_batch(0)
    *edits, skip = agent.entries(process)
    assert skip == Skip(1, NO_SUBJECT)
    process.advance([*edits, skip])
    *edits, skip = agent.entries(process)
    assert skip == Skip(2, NO_SUBJECT)
    assert not any(isinstance(edit, Skip) for edit in edits)
    new, again = EDITS - 1, EDITS - 1
    ranks = {edit.update.a.shape[1] for edit in edits}
    assert ranks == {new + 2 * again if name in SOLVED else new + again}


# --- stored keys ----------------------------------------------------------------------------------


def asked_places(step, size, count, rng):
    """Places of a step's new requests, and of some that were asked before."""
    new = list(range(step * size, (step + 1) * size))
    return new + sorted(rng.choice(step * size, min(count, step * size), replace=False).tolist())


@pytest.mark.parametrize("again", [1, 3, 6])
def test_a_rehearsed_key_takes_the_place_of_the_one_it_had(again):
    """A linear model: after the stream W is the joint solution of everybody's latest keys and
    values, and of nothing else."""
    rng, size, d, out = np.random.default_rng(0), 3, 12, 7
    torch.manual_seed(1)
    root = torch.randn(d, d, dtype=torch.float64)
    covariance = root @ root.mT / d
    weight = start = torch.randn(out, d, dtype=torch.float64)
    agent = make_agent("memit_seq", covariance_weight=0.5, ridge=0.1)
    agent._size = size
    agent.prepare([weight], [covariance])
    latest = {}
    for step in range(4):
        places = asked_places(step, size, again, rng)
        keys = torch.randn(len(places), d).double()
        residuals = torch.randn(len(places), out).double()
        for place, key, value in zip(
            places, keys, (keys @ weight.mT + residuals).float().double(), strict=True
        ):
            latest[place] = key, value
        weight = weight + agent.solve(places, 0, keys, residuals).matrix()
    keys, values = (torch.stack(parts) for parts in zip(*latest.values(), strict=True))
    assert len(keys) == 4 * size
    prior = 0.5 * covariance + 0.1 * torch.eye(d, dtype=torch.float64)
    joint = (values.mT @ keys + start @ prior) @ (keys.mT @ keys + prior).inverse()
    assert (weight - joint).norm() < 1e-8 * joint.norm()
    inverse = (keys.mT @ keys + prior).inverse()
    assert (agent._solvers[0].s - inverse).norm() < 1e-8 * inverse.norm()


@pytest.mark.parametrize("name", SOLVED)
def test_a_stream_with_rehearsal_equals_the_solve_from_scratch_with_the_latest_keys(name, made):
    env, agent = made(name, rehearse=5)
    env.reset(seed=0)
    agent.edit(env)
    process = stream_process(env)
    covered = list(covariances(process.task, agent._sites, agent.settings.tokens))
    stored = {step: list(batches) for step, batches in agent._batches.items()}
    assert [len(batches[0].keys) for batches in stored.values()] == [EDITS] * STEPS
    for wanted in (range(STEPS), (0, 2)):
        for index, site in enumerate(agent._sites):
            place = process.sites.index(site)
            base = process.task.decoder.base_weights[place].double()
            solver = RecursiveLeastSquares(base, agent.prior(covered[index]))
            for step in wanted:
                solver.update(*stored[step][index])
            change = (solver.w - base).norm()
            assert change > 0
            assert (process.decoder.weights[place].double() - solver.w).norm() < 1e-4 * change
        if len(wanted) == STEPS:
            process.decoder.apply(*agent.remove(1))


@pytest.mark.parametrize("name", SOLVED)
def test_what_was_removed_is_not_rehearsed(name, made):
    env, agent = made(name, rehearse=EDITS)
    env.reset(seed=0)
    process = stream_process(env)
    agent.begin(process)
    process.advance(agent.entries(process))
    process.decoder.apply(*agent.remove(0))
    assert all(place < EDITS for place in process.batch.places[EDITS:])
    edits = agent.entries(process)
    assert {edit.update.a.shape[1] for edit in edits} == {EDITS}
    assert sorted(agent._batches) == [1]


@pytest.mark.parametrize("name", ["rome", "memit"])
def test_contexts_are_read_of_rehearsed_requests_too(model, environment, editor, name, monkeypatch):
    env, seen = environment(model, rehearse=EDITS, horizon=2), []
    env.reset(seed=0)
    process, agent = stream_process(env), editor(name, contexts=2, kl_weight=0.1)
    agent.begin(process)
    process.advance([])
    edits = agent.edits

    def look(process, batch):
        seen.append(batch)
        return edits(process, batch)

    monkeypatch.setattr(agent, "edits", look)
    agent.entries(process)
    (batch,) = seen
    assert isinstance(batch, SubjectBatch)
    assert batch.asked == 2 * 2 * EDITS
    assert list(batch.places) == list(process.batch.places)
