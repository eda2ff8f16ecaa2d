"""One agent's line: what is counted of its rows, and what is flagged."""

import pytest

from benchmarks.report import families
from benchmarks.report.aggregate import group_rows


def standing(rows, agent="ppo"):
    (group,) = group_rows(rows)
    return {one.agent.split(" ")[0]: one for one in group.standings}[agent]


@pytest.mark.parametrize(("seeds", "provisional"), [(1, True), (4, True), (5, False)])
def test_few_seeds_are_provisional(unlearning_row, seeds, provisional):
    rows = [unlearning_row("ppo", seed, retain=0.9, forget=0.1) for seed in range(seeds)]
    assert standing(rows).provisional is provisional


def test_a_failed_row_is_counted_as_failed_alone(unlearning_row, make_row):
    rows = [unlearning_row("ppo", seed, retain=0.9, forget=0.1) for seed in range(2)]
    failed = make_row("ppo", 2, measured={"status": "failed", "error": "no luck"}, metrics={})
    found = standing([*rows, failed])
    assert (found.n, found.failed) == (2, 1)


@pytest.mark.parametrize(("steps", "shallow"), [(9, True), (10, True), (11, False)])
def test_ten_steps_of_relearning_are_shallow(unlearning_row, steps, shallow):
    metrics = {"relearn_steps": steps, "probe_accuracy": 0.1, "probe_accuracy_before": 0.9}
    rows = [unlearning_row("ppo", 0, retain=0.9, forget=0.0, metrics=metrics)]
    assert standing(rows).shallow is shallow


def test_memory_that_was_not_measured_counts_as_none(unlearning_row):
    rows = [unlearning_row("ppo", 0, retain=0.9, forget=0.1)]
    rows[0]["peak_memory_bytes"] = None
    assert standing(rows).peak_memory_bytes == 0


@pytest.mark.parametrize("missing", ["forget_accuracy", "forget_accuracy_before"])
def test_a_score_needs_all_its_parts(missing):
    metrics = {"retain_accuracy": 0.9, "forget_accuracy": 0.0, "forget_accuracy_before": 0.9}
    assert families.score(metrics, "unlearning") == pytest.approx(0.9)
    assert families.score({**metrics, missing: None}, "unlearning") is None
