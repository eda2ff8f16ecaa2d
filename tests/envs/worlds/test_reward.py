"""How the rewards of candidates are computed: on which samples, by how many passes."""

import dataclasses
import importlib
from types import SimpleNamespace

import pytest
import torch

from editgym.envs.worlds.reward import RewardSettings, Scorer
from editgym.tasks import make_task
from editgym.weights import EditableNetwork


@pytest.fixture
def scorer():
    """`scorer(batch_size, **arguments)` of digits."""

    def make(batch_size, shared_batch=False, probe_weight=0.0, **arguments):
        task = make_task("unlearning/digits", **arguments)
        settings = RewardSettings(1.0, -1.0, "probability", batch_size, shared_batch, probe_weight)
        return Scorer(task, settings)

    return make


@pytest.fixture
def looked_at(monkeypatch):
    """Per pass over candidates: how many of them, of how many samples, drawn by each its own."""
    passes = []
    plain = EditableNetwork.map_candidates

    def note(self, function, weights, activations, rows=None):
        seen = len(activations[0]) if rows is None else rows.shape[1]
        passes.append((len(weights[0]), seen, rows is not None))
        return plain(self, function, weights, activations, rows)

    monkeypatch.setattr(EditableNetwork, "map_candidates", note)
    return passes


def score(scorer, candidates=3):
    draws = scorer.draws(candidates)
    draws.seed(range(candidates))
    draws.begin()
    networks = [scorer.task.networks[i] for i in draws.network_index.tolist()]
    weights = [
        torch.stack(site) for site in zip(*(one.base_weights for one in networks), strict=True)
    ]
    return draws, scorer.score(weights, draws)


@pytest.mark.parametrize(
    ("smaller", "whole"), [(0, True), (-1, True), (1, False)], ids=["equal", "less", "more"]
)
@pytest.mark.parametrize("shared_batch", [False, True])
def test_a_pool_no_larger_than_a_batch_is_scored_whole(
    scorer, looked_at, monkeypatch, smaller, whole, shared_batch
):
    """The batch has 100 samples of each of two sets."""
    task = make_task("unlearning/digits")
    rows = torch.randperm(len(task.pool))[: 200 + smaller]
    (goal,) = task.goals
    members = {name: torch.arange(10) for name in goal.members}
    small = SimpleNamespace(
        **{name: getattr(task, name) for name in ("networks", "set_names", "device", "utility")},
        edit=task.edit,
        is_success=task.is_success,
        pool=task.pool[rows],
        goals=[SimpleNamespace(features=goal.features, members=members)],
    )
    settings = RewardSettings(1.0, -1.0, "probability", 100, shared_batch, 0.0)
    score(Scorer(small, settings))
    own = not whole and not shared_batch
    assert looked_at == [(3, len(rows) if whole else 200, own)]


@pytest.mark.parametrize("batch_size", [16, 1024])
def test_each_network_scores_its_own_candidates(scorer, looked_at, batch_size):
    draws, scores = score(scorer(batch_size, networks=[0, 1, 2]), candidates=6)
    counts = draws.network_index.bincount().tolist()
    assert [candidates for candidates, *_ in looked_at] == counts
    assert len(set(counts)) < len(draws.network_index)
    assert torch.equal(scores.accuracy["retain"], scores.accuracy_before["retain"]), "unedited"


def test_each_network_probes_its_own_candidates(scorer, looked_at):
    made = scorer(1024, probe_weight=0.5, networks=[0, 1], goals=[3, 7])
    weights = [
        torch.stack([made.task.networks[i].base_weights[0] for i in (0, 1, 0)]),
    ]
    found = made.traces(weights, torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0]))
    assert [candidates for candidates, *_ in looked_at] == [2, 1]
    assert found[0] == found[2] != found[1]
    assert bool((found > 0.25).all()), "an unedited network still tells the class"


def test_without_a_weight_nothing_is_probed(scorer, looked_at):
    made = scorer(1024)
    weights = [torch.stack([made.task.networks[0].base_weights[0]] * 2)]
    assert made.traces(weights, torch.zeros(2), torch.zeros(2)).tolist() == [0.0, 0.0]
    assert not looked_at


def test_a_reference_is_computed_once(scorer, monkeypatch):
    made, calls = scorer(1024), []
    plain = EditableNetwork.logits
    monkeypatch.setattr(EditableNetwork, "logits", lambda *args: calls.append(args) or plain(*args))
    score(made)
    score(made)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("name", "count"), [("reward", 1), ("scores", 2), ("draws", 0), ("probe", 0)]
)
def test_records_cannot_be_changed(name, count):
    module = importlib.import_module(f"editgym.envs.worlds.{name}")
    own = [
        one
        for one in vars(module).values()
        if dataclasses.is_dataclass(one) and one.__module__ == module.__name__
    ]
    assert all(one.__dataclass_params__.frozen for one in own)
    assert len(own) == count
