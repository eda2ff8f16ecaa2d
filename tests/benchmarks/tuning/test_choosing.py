"""How settings are chosen: on data that no report uses, and by the mean over seeds."""

import dataclasses

import gymnasium as gym
import pytest

import editgym  # noqa: F401 - registers the environments
from benchmarks.tuning import editors as tune_editors
from benchmarks.tuning import unlearning as tune_unlearning
from editgym.envs.protocol import open_env
from editgym.tasks.knowledge import KnowledgeTask


class Untouchable:
    """A test split that must not be read."""

    def __getattribute__(self, name):
        pytest.fail(f"the test split was read: {name}")

    def __len__(self):
        pytest.fail("the test split was read")


def test_the_tuner_of_unlearning_does_not_read_the_test_split(monkeypatch):
    task = open_env(gym.make("MaskWorld-v0", task="unlearning/digits", model_seed=10)).task
    monkeypatch.setattr(task, "splits", dataclasses.replace(task.splits, test=Untouchable()))
    row = tune_unlearning.score("unlearning/digits", "fine_tune", {"epochs": 1}, 10)
    assert 0 < row["retain"] <= 1


def test_the_tuner_of_editors_draws_no_stream_of_the_test_split(monkeypatch):
    drawn = []
    whole = KnowledgeTask.stream

    def stream(task, split, count, rng):
        drawn.append(split)
        return whole(task, split, count, rng)

    monkeypatch.setattr(KnowledgeTask, "stream", stream)
    row = tune_editors.score("ultraedit", {}, 1, tune_editors.STREAM_SEEDS[0])
    assert row["reliability"] is not None
    assert set(drawn) == {"validation"}


# One configuration is lucky on one seed, the other is better on the mean.
SCORES = {"lucky": (0.9, 0.1), "steady": (0.6, 0.7)}


def test_the_best_editor_has_the_highest_mean_over_streams():
    rows = [
        {"agent": "rome", "config": {"x": x}, "horizon": 5, "seed": seed, "harmonic_mean": value}
        for x, values in SCORES.items()
        for seed, value in enumerate(values)
    ]
    for order in (rows, rows[::-1]):
        chosen = tune_editors.best(order)
        assert chosen == {("rome", 5): (pytest.approx(0.65), {"x": "steady"})}


def test_the_best_unlearner_has_the_highest_mean_over_networks():
    rows = [
        {
            "task": "unlearning/digits",
            "agent": "ssd",
            "config": {"x": x},
            "model_seed": seed,
            "retain": value,
            "forget": 0.0,
            "retain_before": 1.0,
            "forget_before": 1.0,
        }
        for x, values in SCORES.items()
        for seed, value in enumerate(values)
    ]
    for order in (rows, rows[::-1]):
        (chosen,) = tune_unlearning.best(order).values()
        assert chosen == (pytest.approx(2 * 0.65 / 1.65), {"x": "steady"})
