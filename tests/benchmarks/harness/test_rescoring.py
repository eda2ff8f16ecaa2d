"""Journals that are scored again: the same edits, other measures, in another folder."""

import hashlib
import importlib
import json
from pathlib import Path

import pytest

from benchmarks import leaderboard
from benchmarks.harness.rescoring import RescoringError, Setting, read_settings, rescore_rows
from benchmarks.harness.runner import run_cells
from benchmarks.harness.validation import rerun_row, validate_row
from benchmarks.report.commands import command
from benchmarks.results import (
    ROWS_FILE,
    append_row,
    read_rows,
    records_file,
    row_hash,
    row_problem,
)
from benchmarks.suites.cells import cells
from benchmarks.suites.entry import Entry, Suite

OWN = '''
def halves(network, task, goal):
    """A number that is known."""
    return 0.5


def broken(network, task, goal):
    raise RuntimeError("no such thing")
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with two finished rows of a world."""
    folder = tmp_path_factory.mktemp("world")
    entry = Entry("ShiftWorld-v0", "debiasing/templates", ("no_edit", "random"), reward_calls=8)
    rows = run_cells(cells(Suite("quick", 1, (entry,))), folder)
    assert {row["status"] for row in rows} == {"finished"}
    return folder


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """A folder with a finished row of a short stream of facts."""
    folder = tmp_path_factory.mktemp("stream")
    short = {"horizon": 1, "edits_per_step": 2, "format_edits": 1}
    entry = Entry(
        "LifelongLLMEdit-v0", "knowledge/factworld", ("no_edit",), seed_kwarg=None, env_kwargs=short
    )
    (row,) = run_cells(cells(Suite("quick", 1, (entry,))), folder)
    assert row["status"] == "finished", row["error"]
    return folder


@pytest.fixture
def own(monkeypatch, tmp_path):
    """A module with metrics, importable."""
    (tmp_path / "own_halves.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def contents(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rescored(folder, to, *pairs):
    return rescore_rows(read_rows(folder / ROWS_FILE), folder, to, read_settings(pairs))


def test_a_new_metric_is_measured_of_the_edits_that_were_made(world, own, tmp_path):
    before = contents(world)
    found = rescored(world, tmp_path / "to", 'metrics=["own_halves:halves"]')
    assert (len(found.added), found.there, found.failed) == (2, 0, [])
    assert contents(world) == before, "the old rows stay as they are"
    rows = read_rows(tmp_path / "to" / ROWS_FILE)
    for row, old in zip(rows, read_rows(world / ROWS_FILE), strict=True):
        assert row["metrics"] == {**old["metrics"], "halves": 0.5}
        assert row["rescored_from"] == {
            "cell": old["cell"],
            "row_sha256": old["row_sha256"],
            "git": old["git"],
            "set": {"metrics": ["own_halves:halves"]},
        }
        assert row["cell"] != old["cell"]
        for same in ("agent", "access", "seed", "settings", "reward_calls", "edit_sha256"):
            assert row[same] == old[same]
        assert row["time"]["train_s"] == old["time"]["train_s"]
        assert row_problem(row) is None
        assert command([row], ()) == (
            "python -m benchmarks.leaderboard rescore DIR"
            f" --set 'metrics=[\"own_halves:halves\"]' --rows {old['cell'][:12]}"
        )
        journal = (tmp_path / "to" / row["edit_file"]).read_bytes()
        assert hashlib.sha256(journal).hexdigest() == row["edit_sha256"]
        assert validate_row(row, tmp_path / "to").problems == ()
        (problem,) = rerun_row(row).problems
        assert old["cell"] in problem


def test_a_second_call_goes_on_from_the_first(world, own, tmp_path, monkeypatch):
    every = read_rows(world / ROWS_FILE)
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    first = rescore_rows(every[:1], world, tmp_path / "to", settings)
    again = rescore_rows(every, world, tmp_path / "to", settings)
    assert (len(first.added), len(again.added), again.there) == (1, 1, 1)
    monkeypatch.setattr("benchmarks.harness.rescoring._rescore", None)  # nothing is left to do
    assert rescore_rows(every, world, tmp_path / "to", settings).there == 2
    assert len((tmp_path / "to" / ROWS_FILE).read_text().splitlines()) == 2


def test_another_scorer_judges_a_stream_in_another_format(stream, tmp_path):
    found = rescored(stream, tmp_path, "scorer=contains", 'evaluate_formats=["qa"]')
    ((row,), (old,)) = found.added, read_rows(stream / ROWS_FILE)
    assert {"reliability", "reliability@qa"} <= row["metrics"].keys()
    assert row["metrics"].keys() - old["metrics"].keys()
    assert row["fingerprints"]["data"] == old["fingerprints"]["data"]
    records = (tmp_path / records_file(row["cell"])).read_bytes()
    assert hashlib.sha256(records).hexdigest() == row["records_sha256"]
    assert len(records.splitlines()) == 3, "two edits, and one asked in the other format"


def test_a_setting_that_changes_the_edit_is_refused(stream, world, tmp_path):
    with pytest.raises(ValueError, match="horizon of LifelongLLMEdit-v0 is none of what is"):
        rescored(stream, tmp_path / "to", "horizon=3")
    with pytest.raises(ValueError, match=r"alpha of ShiftWorld-v0.*\(metrics\)"):
        rescored(world, tmp_path / "to", "alpha=3")
    assert not (tmp_path / "to").exists()


def test_data_that_are_not_those_of_the_row_fail_it(stream, tmp_path):
    (row,) = read_rows(stream / ROWS_FILE)
    other = {**row, "fingerprints": {**row["fingerprints"], "data": "0" * 64}}
    other["row_sha256"] = row_hash(other)
    found = rescore_rows([other], stream, tmp_path / "to", [Setting(None, "scorer", "contains")])
    ((_, problem),) = found.failed
    assert "the settings change what was edited: fingerprint of the data" in problem
    assert read_rows(tmp_path / "to" / ROWS_FILE) == []


def test_what_fails_is_that_row_alone(world, own, tmp_path):
    first, second = read_rows(world / ROWS_FILE)
    changed = {**first, "access": "oracle"}
    settings = [Setting("debiasing/templates", "metrics", ["own_halves:halves"])]
    found = rescore_rows([changed, second], world, tmp_path / "to", settings)
    assert [row["cell"] for row, _ in found.failed] == [first["cell"]]
    assert "not the one that was written" in found.failed[0][1]
    assert len(found.added) == 1
    broken = [Setting(None, "metrics", ["own_halves:broken"])]
    found = rescore_rows([second], world, tmp_path / "more", broken)
    assert "no such thing" in found.failed[0][1]


def test_a_journal_that_was_exchanged_is_not_scored(world, own, tmp_path):
    folder = tmp_path / "copy"
    (row, _) = read_rows(world / ROWS_FILE)
    (folder / "edits").mkdir(parents=True)
    (folder / row["edit_file"]).write_bytes(b"another")
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    ((_, problem),) = rescore_rows([row], folder, tmp_path / "to", settings).failed
    assert "is not the file that was measured" in problem


def test_a_cell_of_another_edit_is_not_taken_for_this_one(world, own, tmp_path):
    (row, _) = read_rows(world / ROWS_FILE)
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    (new,) = rescore_rows([row], world, tmp_path / "to", settings).added
    other = {**new, "edit_sha256": "0" * 64}
    append_row(tmp_path / "to" / ROWS_FILE, {**other, "row_sha256": row_hash(other)})
    ((_, problem),) = rescore_rows([row], world, tmp_path / "to", settings).failed
    assert "of another edit" in problem


def test_folders_and_settings_are_checked(world, tmp_path):
    for pair in ("scorer", "=3", "a b=3", "unlearning/digits.=3"):
        with pytest.raises(ValueError, match=r"KEY=VALUE or TASK\.KEY=VALUE"):
            read_settings([pair])
    with pytest.raises(ValueError, match="say what is to be measured"):
        read_settings([])
    assert read_settings(["a/b.c=[1]", "scorer=squad"]) == [
        Setting("a/b", "c", [1]),
        Setting(None, "scorer", "squad"),
    ]
    with pytest.raises(ValueError, match="no finished row is to be measured otherwise"):
        rescored(world, tmp_path / "to", "knowledge/zsre.scorer=squad")
    with pytest.raises(ValueError, match="another folder"):
        rescored(world, world, "metrics=[]")
    assert issubclass(RescoringError, ValueError), "the command says it in one line"


def test_the_command(world, own, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (row, _) = read_rows(world / ROWS_FILE)
    typed = ["rescore", str(world), "--set", 'metrics=["own_halves:halves"]']
    typed += ["--rows", row["cell"][:10], "--out", "to"]
    assert leaderboard.main(typed) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines() == ["rows: 1 scored again", str(Path("to/index.html").resolve())]
    assert json.loads(Path("to/leaderboard.json").read_text())["groups"]
    assert leaderboard.main([*typed[:-2], "--set", "alpha=1"]) == 2
    assert "for another edit run the suite again" in capsys.readouterr().err
    broken = ["rescore", str(world), "--set", 'metrics=["own_halves:broken"]', "--out", "no"]
    assert leaderboard.main(broken) == 1
    assert capsys.readouterr().err.count("FAILED  ") == 2
