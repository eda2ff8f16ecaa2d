"""One agent's line: what is counted of its rows, and what is flagged."""

import dataclasses
import importlib

import pytest

from benchmarks.report import families
from benchmarks.report.aggregate import group_rows
from benchmarks.report.beside import beside
from benchmarks.report.brief import brief
from benchmarks.report.families import SCORE
from benchmarks.report.reading import notes


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


def test_memory_is_the_largest_that_was_measured(unlearning_row):
    rows = [unlearning_row("ppo", seed, retain=0.9, forget=0.1) for seed in range(3)]
    for row, size in zip(rows, (None, 2**20, 2**21), strict=True):
        row["peak_memory_bytes"] = size
    assert standing(rows).peak_memory_bytes == 2**21
    assert standing(rows[:1]).peak_memory_bytes is None


def test_a_line_has_the_widest_access_of_its_rows(unlearning_row):
    """Of an agent that declares less in some cells, as of one that takes gradients in some."""
    rows = [unlearning_row("ppo", seed, retain=0.9, forget=0.1) for seed in range(3)]
    for row, access in zip(rows, ("reward", "data", "gradient"), strict=True):
        row["access"] = access
    assert standing(rows).access == "data"
    assert standing(rows[:1]).access == "reward"
    rows[1] |= {"status": "failed", "access": "whatever"}
    assert standing(rows).access == "gradient"


def test_a_reason_is_one_line_whatever_the_agent_says(make_row):
    said = {"status": "unsupported", "error": "no\n\n## Winner\n\x1b[31m**me**", "time": {}}
    told = standing([make_row("mine:A", 0, measured=said)], "mine:A").unsupported
    assert told == "no ## Winner \\x1b[31m**me**"


def test_a_negative_metric_of_strangers_is_no_share(unlearning_row):
    rows = [unlearning_row("ppo", 0, retain=-0.1, forget=0.1)]
    assert SCORE not in standing(rows).metrics


@pytest.mark.parametrize("missing", ["forget_accuracy", "forget_accuracy_before"])
def test_a_score_needs_all_its_parts(missing):
    metrics = {"retain_accuracy": 0.9, "forget_accuracy": 0.0, "forget_accuracy_before": 0.9}
    assert families.score(metrics, "unlearning") == pytest.approx(0.9)
    assert families.score({**metrics, missing: None}, "unlearning") is None


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_only_finished_rows_are_a_groups_rows(unlearning_row, make_row, status):
    """`failed` sorts before `finished`, and `unsupported` after it."""
    finished = unlearning_row("ppo", 0, retain=0.9, forget=0.1)
    rows = [finished, make_row("ppo", 1, measured={"status": status, "error": "no"}, metrics={})]
    rows.append(make_row("cmaes", 0, measured={"status": status, "error": "no"}, metrics={}))
    (group,) = group_rows(rows)
    assert [row["seed"] for row in group.rows["ppo"]] == [0]
    assert group.rows["cmaes"] == []
    found = {one.agent: one for one in group.standings}
    assert (found["ppo"].n, found["ppo"].provisional) == (1, True)
    assert (found["cmaes"].n, found["cmaes"].provisional) == (0, False)
    assert found["ppo"].failed == 1, "who gives up one seed of several has failed it"
    assert found["cmaes"].failed == int(status == "failed")
    assert found["ppo"].unsupported is None, "it does the task"
    assert found["cmaes"].unsupported == ("no" if status != "failed" else None)
    assert set(group.failed) == {row["cell"] for row in rows[1 : 2 + (status == "failed")]}
    assert found["cmaes"].peak_memory_bytes is None
    assert found["cmaes"].reward_calls is None


@pytest.fixture
def picky(unlearning_row, make_row):
    """Rows of an agent that is far better on even seeds, and has no result on odd ones, beside one
    that has all."""

    def make(status, seeds=20):
        said = {"status": status, "error": "not this network", "time": {}}
        rows = [
            unlearning_row("even", seed, retain=0.9, forget=0.1 + seed / 1000)
            for seed in range(seeds)
        ]
        for seed in range(seeds):
            good = unlearning_row("picky", seed, retain=0.9, forget=seed / 1000)
            rows.append(good if seed % 2 == 0 else make_row("picky", seed, measured=said))
        return rows

    return make


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_who_fails_some_seeds_is_compared_with_nobody(picky, unlearning_row, status):
    rows = picky(status)
    rows += [unlearning_row("poor", seed, retain=0.2, forget=0.8) for seed in range(20)]
    (group,) = group_rows(rows)
    found = {one.agent: one for one in group.standings}
    assert [one.agent for one in group.standings] == ["even", "poor", "picky"]
    assert [found[name].rank for name in ("even", "poor", "picky")] == [1, 2, None]
    assert all(one.beaten_by in ((), ("even",)) for one in found["poor"].metrics.values())
    assert (found["picky"].seeds, found["picky"].lacking) == ("10 of 20", 10)
    assert (found["picky"].failed, found["picky"].unsupported) == (10, None)
    (told,) = (note for note in notes(group) if "10 of 20 seeds" in note)
    assert "compared with nobody, and has no rank" in told
    text = " ".join(brief([group], 10).split())
    assert "even has the highest harmonic mean" in text
    assert "1 of 1 other agents" in text
    assert "it lacks seeds that others have: picky (10 of 20 seeds)" in text
    assert "does not do" not in text
    beside_even = beside([group], "even")
    assert "picky has 10 of 20 seeds, and is not compared." in beside_even
    assert beside_even.count("picky") == 1
    assert "P(better)" in beside_even
    assert "is not compared" in beside([group], "picky")


def test_seeds_that_have_not_run_yet_are_not_lacking(picky, unlearning_row):
    rows = [row for row in picky("failed", 30) if row["status"] == "finished"]
    assert standing(rows, "picky").seeds == "15"
    assert standing(rows, "picky").rank == 1
    nobody = [row for row in picky("failed") if row["agent"] == "picky"]
    assert standing(nobody, "picky").seeds == "10", "nobody has the others"


def test_a_row_without_result_is_of_the_agent_whose_files_it_does_not_know(picky):
    rows = picky("unsupported")
    for row in rows:
        if row["agent"] == "picky" and row["status"] == "finished":
            row["fingerprints"] = {**row["fingerprints"], "agent_files": {"a": "0" * 64}}
    assert standing(rows, "picky").seeds == "10 of 20"
    for row in rows[20:40:4]:
        row["fingerprints"] = {**row["fingerprints"], "agent_files": {"a": "1" * 64}}
    (group,) = group_rows(rows)
    assert sorted(one.seeds for one in group.standings) == ["20", "5 of 15", "5 of 15"]


@pytest.mark.parametrize(
    ("forget", "shallow"), [(0.45, True), (0.46, False)], ids=["half", "less than half"]
)
def test_half_of_the_class_has_to_be_forgotten_to_be_so_shallowly(unlearning_row, forget, shallow):
    rows = [unlearning_row("ppo", 0, retain=0.9, forget=forget, metrics={"relearn_steps": 0})]
    assert standing(rows).shallow is shallow


@pytest.mark.parametrize(
    ("probe", "before", "shallow"),
    [(0.81, 0.9, True), (0.80, 0.9, False), (None, 0.9, False), (0.9, None, False)],
)
def test_a_probe_that_finds_nine_tenths_sees_through(unlearning_row, probe, before, shallow):
    metrics = {"probe_accuracy": probe, "probe_accuracy_before": before}
    rows = [unlearning_row("ppo", 0, retain=0.9, forget=0.0, metrics=metrics)]
    assert standing(rows).shallow is shallow


@pytest.mark.parametrize("missing", ["forget_accuracy", "forget_accuracy_before"])
def test_nothing_is_shallow_where_forgetting_was_not_measured(unlearning_row, missing):
    metrics = {missing: None, "relearn_steps": 0}
    rows = [unlearning_row("ppo", 0, retain=0.9, forget=0.0, metrics=metrics)]
    assert standing(rows).shallow is False


def test_costs_are_the_middle_seeds_and_the_largest_memory(unlearning_row):
    rows = [
        unlearning_row(
            "ppo",
            seed,
            retain=0.9,
            forget=0.1,
            measured={
                "reward_calls": calls,
                "peak_memory_bytes": calls * 7,
                "time": {"train_s": calls / 2, "edit_s": None, "eval_s": 1.0, "edits_per_s": 2.0},
            },
        )
        for seed, calls in enumerate((10, 200, 31))
    ]
    found = standing(rows)
    assert (found.reward_calls, found.peak_memory_bytes) == (31, 1400)
    assert (found.time["train_s"], found.time["edit_s"]) == (15.5, None)


@pytest.mark.parametrize("name", ["aggregate", "estimates", "families", "standings"])
def test_records_of_a_report_cannot_be_changed(name):
    module = importlib.import_module(f"benchmarks.report.{name}")
    own = [
        one
        for one in vars(module).values()
        if dataclasses.is_dataclass(one) and one.__module__ == module.__name__
    ]
    assert own
    assert all(one.__dataclass_params__.frozen for one in own)


@pytest.mark.parametrize(("worst", "shallow"), [(0.5, True), (0.49, False)])
def test_where_attacks_were_measured_the_worst_of_them_decides(unlearning_row, worst, shallow):
    metrics = {"worst_attack": worst, "relearn_steps": 0}
    rows = [unlearning_row("ppo", 0, retain=0.9, forget=0.0, metrics=metrics)]
    assert standing(rows).shallow is shallow


@pytest.mark.parametrize("attacks", [{}, {"worst_attack": 0.0}])
def test_the_retrained_network_is_never_shallow_nor_who_is_like_it(unlearning_row, attacks):
    seen = {"probe_accuracy": 0.9, "probe_accuracy_before": 0.9, "relearn_steps": 90}
    rows = [
        unlearning_row("retrain", 0, retain=0.9, forget=0.0, metrics={**seen, **attacks}),
        unlearning_row("ppo", 0, retain=0.9, forget=0.0, metrics=seen),
        unlearning_row("cmaes", 0, retain=0.9, forget=0.0, metrics={**seen, "relearn_steps": 9}),
    ]
    found = {name: standing(rows, name).shallow for name in ("retrain", "ppo", "cmaes")}
    assert found == {"retrain": False, "ppo": False, "cmaes": True}
    assert standing(rows[1:]).shallow, "nobody says that a retrained network is seen through"
