"""Environments with streams of edits: records, curves, and another split to be evaluated on."""

import dataclasses
import importlib
import json
from pathlib import Path

import gymnasium as gym
import pytest

import envs_registry
from benchmarks import leaderboard
from benchmarks.harness.measure import run_cell
from benchmarks.harness.runner import Execution, run_cells
from benchmarks.harness.validation import validate_row
from benchmarks.report.aggregate import group_rows
from benchmarks.results import ROWS_FILE, Cell, append_row, read_rows, records_file, rows_agree
from benchmarks.results.rows import row_hash
from benchmarks.suites.cells import SUITES, cells, entries_of
from benchmarks.suites.entry import Entry, Suite
from envs_registry import Environment, environment_spec

HERE = Path(__file__).parents[1]
EDITOR = "toy_editing:StreamEditor"


@pytest.fixture(autouse=True)
def streams(monkeypatch, tmp_path):
    """A suite `stream` of an environment that is evaluated on another split."""
    monkeypatch.syspath_prepend(HERE)
    row = Environment(
        "ToyStream-v0", "toy_editing:ToyStreamEnv", evaluation_kwargs={"split": "test"}
    )
    monkeypatch.setattr(envs_registry, "ENVIRONMENTS", (*envs_registry.ENVIRONMENTS, row))
    entry = Entry("ToyStream-v0", "toy stream", (EDITOR,), seed_kwarg="stream_seed")
    monkeypatch.setitem(SUITES, "stream", Suite("stream", 2, (entry,)))
    monkeypatch.chdir(tmp_path)
    importlib.import_module("toy_editing")  # registers it


@pytest.fixture
def splits():
    """The splits that `StreamEditor` learned and edited on, in this process."""
    from toy_editing import StreamEditor

    StreamEditor.splits.clear()
    return StreamEditor.splits


def stream_cells(seeds=2):
    return cells(SUITES["stream"], seeds=seeds)


def with_kwargs(cell, **changes):
    return dataclasses.replace(cell, env_kwargs={**cell.env_kwargs, **changes})


def test_records_lie_beside_the_journal(tmp_path):
    (row,) = run_cells(stream_cells(1), tmp_path)
    assert (row["status"], row["error"]) == ("finished", None)
    text = (tmp_path / records_file(row["cell"])).read_text()
    assert "Étage ?" in text
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["edit"] for record in records] == list(range(6))
    assert {path.name for path in (tmp_path / "records").iterdir()} == {f"{row['cell']}.jsonl"}
    assert "records_file" not in row


def test_row_has_the_metrics_and_the_curve_of_the_records(tmp_path):
    (row,) = run_cells(stream_cells(1), tmp_path)
    assert row["metrics"]["reliability"] == pytest.approx(4 / 6)
    assert (row["metrics"]["reliability_now"], row["metrics"]["locality"]) == (1, 0.5)
    assert "retain_accuracy" not in row["metrics"]
    assert row["curves"]["retention"] == [[0, 1], [1, 1], [2, 1], [3, 1], [4, 0], [5, 0]]


def test_speed_counts_requests_not_steps():
    time = run_cell(stream_cells(1)[0]).row["time"]
    assert time["edits_per_s"] * time["edit_s"] == pytest.approx(6)


def test_speed_counts_an_edit_once_that_is_asked_in_several_formats():
    arguments = {
        "task": "knowledge/factworld",
        "horizon": 2,
        "edits_per_step": 3,
        "evaluate_formats": ["qa", "completion"],
    }
    time = run_cell(Cell("formats", "LifelongLLMEdit-v1", arguments, "no_edit", {}, 0)).row["time"]
    assert time["edits_per_s"] * time["edit_s"] == pytest.approx(6)


def test_learned_on_one_split_and_evaluated_on_another(splits):
    outcome = run_cell(stream_cells(1)[0])
    assert splits == ["policy", "test"]
    assert json.loads(outcome.records.splitlines()[0])["subject"] == "test"
    assert outcome.row["env_kwargs"] == {"task": "toy stream", "stream_seed": 0, "device": "cpu"}


def test_arguments_of_the_cell_win(splits):
    outcome = run_cell(with_kwargs(stream_cells(1)[0], split="policy"))
    assert splits == ["policy", "policy"]
    assert json.loads(outcome.records.splitlines()[0])["subject"] == "policy"


def test_spec_of_an_environment_is_not_changed():
    assert environment_spec("ToyStream-v0", {"device": "cpu"}).kwargs == {"device": "cpu"}
    assert environment_spec("ToyStream-v0", {"device": "cpu"}, evaluation=True).kwargs == {
        "device": "cpu",
        "split": "test",
    }
    assert environment_spec("Toy-v0", {"device": "cpu"}, evaluation=True).kwargs == {
        "device": "cpu"
    }
    assert gym.spec("ToyStream-v0").kwargs == {}


def test_agent_edits_the_episode_that_is_evaluated():
    """`StreamEditor` asks for another one; had it got it, its answers would be wrong."""
    assert run_cell(stream_cells(2)[1]).row["metrics"]["reliability_now"] == 1


@pytest.mark.slow
@pytest.mark.isolated
def test_processes_write_the_same_records(tmp_path):
    chosen = [
        dataclasses.replace(with_kwargs(cell, split="test"), env_id="toy_editing:ToyStream-v0")
        for cell in stream_cells()
    ]  # other processes have the table as it is committed
    alone, together = (
        run_cells(chosen, tmp_path / "alone"),
        run_cells(chosen, tmp_path / "two", Execution(jobs=2)),
    )
    together = {row["cell"]: row for row in together}
    for row in alone:
        assert rows_agree(row, together[row["cell"]])
        file = records_file(row["cell"])
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        (
            [[0, 1], [1, 1], [2, 0.5], [3, 1], [4, 0], [5, 0]],
            r"curve retention, point 2: recorded \[2, 0.5\], replayed \[2.0, 1.0\]",
        ),
        ([[0, 1]], "curve retention: recorded 1 points, replayed 6"),
        (None, "curve retention: recorded None, replayed"),
    ],
)
def test_validate_compares_curves(tmp_path, curve, message):
    (row,) = run_cells(stream_cells(1), tmp_path)
    assert validate_row(row, tmp_path).problems == ()
    other = {**row, "curves": {"retention": curve}}
    other["row_sha256"] = row_hash(other)
    (problem,) = validate_row(other, tmp_path).problems
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem)


def test_validate_needs_no_records(tmp_path, capsys):
    (row,) = run_cells(stream_cells(1), tmp_path)
    (tmp_path / records_file(row["cell"])).unlink()
    assert leaderboard.main(["validate", str(tmp_path)]) == 0
    row["metrics"]["reliability"] = 0.5
    (tmp_path / ROWS_FILE).unlink()
    append_row(tmp_path / ROWS_FILE, row)
    assert leaderboard.main(["validate", str(tmp_path)]) == 1
    assert "reliability: recorded 0.5, replayed 0.66" in capsys.readouterr().out


@pytest.mark.parametrize("broken", ["curves", "records"])
def test_numbers_that_are_not_finite_fail_their_cell_and_no_other(tmp_path, monkeypatch, broken):
    from toy_editing import ToyStreamEnv

    whole = ToyStreamEnv.evaluate

    def evaluate(env, journal):
        evaluation = whole(env, journal)
        nan = {"retention": [[0, float("nan")]]}
        return dataclasses.replace(evaluation, **{broken: nan if broken == "curves" else [nan]})

    monkeypatch.setattr(ToyStreamEnv, "evaluate", evaluate)
    (row,) = run_cells(stream_cells(1), tmp_path)
    assert row["status"] == "failed"
    assert "not JSON compliant" in row["error"]
    assert not (tmp_path / "records").exists()


def test_report_draws_retention_and_takes_seeds_together(tmp_path, capsys):
    assert leaderboard.main(["run", "--suite", "stream", "--out", "out"]) == 0
    assert (tmp_path / "out/plots/stream-toystream-v0-toy-stream-retention.svg").is_file()
    assert "retention" in (tmp_path / "out/index.html").read_text()
    (group,) = group_rows(read_rows(tmp_path / "out" / ROWS_FILE), entries_of)
    assert (group.title, group.family) == ("ToyStream-v0 · toy stream", "knowledge")
    assert group.standings[0].n == 2
    assert group.metrics[0] == "harmonic_mean"


# --- suites ---------------------------------------------------------------------------------------


def test_agents_of_an_entry_may_be_configured():
    entry = Entry(
        "ToyStream-v0",
        "toy stream",
        ("no_edit", ("fine_tune", {"epochs": 1}), ("fine_tune", {"epochs": 2})),
        seed_kwarg=None,
    )
    suite = Suite("stream", 1, (entry,))
    assert [(cell.agent, cell.agent_config) for cell in cells(suite)] == [
        ("no_edit", {}),
        ("fine_tune", {"epochs": 1}),
        ("fine_tune", {"epochs": 2}),
    ]
    chosen = cells(suite, agents=["fine_tune", "retrain"])
    assert [(cell.agent, cell.agent_config) for cell in chosen] == [
        ("fine_tune", {"epochs": 1}),
        ("fine_tune", {"epochs": 2}),
        ("retrain", {}),
    ]
    assert chosen[0].env_kwargs == {"task": "toy stream", "device": "cpu"}
    assert chosen[0].reward_calls is None


def test_search_without_a_budget_is_refused_and_no_edit_is_not():
    (cell,) = cells(SUITES["stream"], agents=["toy_editing:Searcher"], seeds=1)
    assert (
        "'toy stream' has none: give it a row in benchmarks.suites.entry.REWARD_CALLS"
        in run_cell(cell).row["error"]
    )
    (cell,) = cells(Suite("stream", 1, (Entry("MaskWorld-v0", "unlearning/digits", ("no_edit",)),)))
    assert run_cell(dataclasses.replace(cell, reward_calls=None)).row["status"] == "finished"


# --- several goals --------------------------------------------------------------------------------


def test_cell_with_several_goals_reports_on_the_one_that_was_edited(tmp_path):
    entry = Entry(
        "MaskWorld-v0",
        "unlearning/digits",
        ("fine_tune",),
        env_kwargs={"goals": [3, 7]},
        seed_kwarg=None,
    )
    chosen = cells(Suite("worlds", 6, (entry,)), seeds=6)
    env = gym.make("MaskWorld-v0", goals=[3, 7])
    goals = [env.reset(seed=cell.seed)[1]["goal"] for cell in chosen]
    assert set(goals) == {0, 1}
    picked = [chosen[goals.index(goal)] for goal in (0, 1)]
    rows = run_cells(
        [dataclasses.replace(cell, agent_config={"epochs": 1}, settings=None) for cell in picked],
        tmp_path,
    )
    unedited = [
        env.unwrapped.task.evaluate(env.unwrapped.network.fresh().journal, goal) for goal in (0, 1)
    ]
    for row, before in zip(rows, unedited, strict=True):
        assert row["metrics"]["forget_accuracy_before"] == before["forget_accuracy"]
        assert validate_row(row, tmp_path).problems == ()
    assert unedited[0]["forget_accuracy"] != unedited[1]["forget_accuracy"]


def test_what_edit_grpo_refines_stands_beside_it_with_the_same_settings():
    refined = 0
    for entry in SUITES["lifelong"].entries:
        own = entry.chosen(None)
        for name, config, _ in own:
            if name == "edit_grpo":
                assert (config["editor"], config.get("editor_config", {}), {}) in own
                refined += 1
    assert refined == 9, "after three editors, at 20 steps with and without the bonus"
