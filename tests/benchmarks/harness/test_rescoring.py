"""Journals that are scored again: the same edits, other measures, in another folder."""

import hashlib
import importlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import leaderboard
from benchmarks.harness.again import rerun_row
from benchmarks.harness.rescoring import RescoringError, Setting, read_settings, rescore_rows
from benchmarks.harness.runner import run_cells
from benchmarks.harness.sources import source_of
from benchmarks.harness.validation import validate_row
from benchmarks.report.aggregate import group_rows
from benchmarks.report.commands import command
from benchmarks.report.strata import Strata
from benchmarks.results import (
    ROWS_FILE,
    Cell,
    append_row,
    edited_with,
    read_rows,
    records_file,
    row_hash,
    row_problem,
)
from benchmarks.results.marks import MARKS_FILE, Mark, add_marks, read_marks
from benchmarks.suites.cells import cells, entries_of
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
            "before": {},
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


def test_an_edit_that_is_scored_again_is_none_of_a_run_with_these_arguments(world, own, tmp_path):
    """Where a setting decides the edit, too, such as the prompt format, they are two edits."""
    rescored(world, tmp_path / "to", 'metrics=["own_halves:halves"]')
    rescored(tmp_path / "to", tmp_path / "twice", "metrics=[]")
    folders = (world, tmp_path / "to", tmp_path / "twice")
    old, row, twice = (read_rows(folder / ROWS_FILE)[0] for folder in folders)
    assert [edited_with(one) for one in (old, row, twice)] == [{}, *[{"metrics": None}] * 2]
    for one in (row, twice):
        run = replace(Cell.of(one), edited_with={})
        assert Cell.of(one).id == one["cell"] != run.id
        assert Strata().of(one) == f"{run.env_id} · {run.task} · edited with metrics=None · " + (
            f"metrics={one['env_kwargs']['metrics']}"
        )
        (group,) = group_rows([one], entries_of)
        assert group.label == (
            f"{run.env_id} · {run.task} · scored again with metrics={one['env_kwargs']['metrics']}"
        )
        made_up = {key: value for key, value in one.items() if key != "rescored_from"}
        made_up["row_sha256"] = row_hash(made_up)
        assert "the row is not of its cell" in row_problem(made_up)
        for broken in ({}, [], {"set": 3}, {"set": ["metrics"], "before": 3}):
            assert "rescored_from is not of its form" in row_problem(
                {**one, "rescored_from": broken}
            )


def test_an_edit_that_is_scored_again_as_it_was_made_is_the_runs(world, own, tmp_path):
    first = rescored(world, tmp_path / "none", "metrics=[]")
    rescored(tmp_path / "none", tmp_path / "to", 'metrics=["own_halves:halves"]')
    back = rescored(tmp_path / "to", tmp_path / "back", "metrics=[]")
    assert [row["cell"] for row in back.added] == [row["cell"] for row in first.added]


def test_an_edit_scored_again_as_it_was_made_is_shown_among_runs(world):
    """A report draws one line of both."""
    (row, other) = read_rows(world / ROWS_FILE)
    arguments = {**row["env_kwargs"], "metrics": []}
    first, run = ({**one, "env_kwargs": arguments} for one in (row, other))
    made_from = {"cell": "0" * 64, "set": {"metrics": ["x:y"]}, "before": {"metrics": []}}
    back = {**first, "rescored_from": made_from}
    assert edited_with(back) == {}
    for rows in ([back, run], [run, back]):
        assert command(rows, ()).startswith("python -m benchmarks.leaderboard run ")


def test_a_row_that_was_scored_again_is_run_again_as_its_edit_was_made(world, own, tmp_path):
    """A run of its own cell would be of another edit, wherever a setting decides the edit, too."""
    rescored(world, tmp_path / "to", 'metrics=["own_halves:halves"]')
    rescored(tmp_path / "to", tmp_path / "twice", "metrics=[]")
    for folder, given in (("to", "metrics=['own_halves:halves']"), ("twice", "metrics=[]")):
        _, row = read_rows(tmp_path / folder / ROWS_FILE)
        _, old = read_rows(world / ROWS_FILE)
        assert source_of(row) == Cell.of(old)
        verdict = rerun_row(row)
        assert verdict.problems == ()
        found = verdict.rerun
        assert (found["cell"], found["metrics"]) == (row["cell"], row["metrics"])
        assert found["rescored_from"]["cell"] == row["rescored_from"]["cell"]
        assert found["rescored_from"]["row_sha256"] != row["rescored_from"]["row_sha256"]
        (said,) = verdict.said
        made_from = row["rescored_from"]["cell"][:12]
        assert said.startswith(f"scored again from {made_from} with {given}: the cell {made_from}")
        assert f"was run again by the code {old['git']}" in said
        assert "was evaluated again with the row's settings" in said


@pytest.mark.isolated
def test_a_strangers_metric_is_imported_by_no_process_that_writes_rows(
    world, own, tmp_path, monkeypatch
):
    monkeypatch.delitem(sys.modules, "own_halves", raising=False)
    found = rescored(world, tmp_path / "to", 'metrics=["own_halves:halves"]')
    assert [row["metrics"]["halves"] for row in found.added] == [0.5, 0.5]
    assert "own_halves" not in sys.modules


def test_a_row_that_lies_of_its_edit_is_found_out_by_running_it_again(world, own, tmp_path):
    rescored(world, tmp_path / "to", 'metrics=["own_halves:halves"]')
    _, row = read_rows(tmp_path / "to" / ROWS_FILE)
    liar = {**row, "access": "oracle"}
    (problem,) = rerun_row({**liar, "row_sha256": row_hash(liar)}).problems
    assert "its access is 'reward', recorded 'oracle'" in problem
    decides = {**row["rescored_from"], "set": {"alpha": 3}, "before": {"alpha": 2}}
    liar = {**row, "env_kwargs": {**row["env_kwargs"], "alpha": 3}, "rescored_from": decides}
    for problems in (rerun_row(liar).problems, validate_row(liar, tmp_path / "to").problems):
        assert any("says that alpha was set, which decides the edit" in one for one in problems)
    made_from = {**row["rescored_from"], "before": {"metrics": ["own_halves:broken"]}}
    (problem,) = rerun_row({**row, "rescored_from": made_from}).problems
    assert "rescored_from does not say what metrics were there: run that row again" in problem


def test_a_row_that_is_shown_with_other_settings_than_it_was_run_with_is_found_out(world):
    """Or it would stand in another agent's line, and take a mark there."""
    row = next(row for row in read_rows(world / ROWS_FILE) if row["agent"] == "random")
    assert rerun_row(row).problems == ()
    liar = {**row, "settings": {**row["settings"], "told": 7}}
    liar["cell"] = Cell.of(liar).id
    problems = rerun_row(liar).problems
    assert "of its settings, as they follow from agent_config, told is null, recorded 7" in problems


def test_validate_says_what_was_run_again_and_what_was_evaluated_again_alone(
    world, own, tmp_path, capsys
):
    rescored(world, tmp_path / "to", 'metrics=["own_halves:halves"]')
    arguments = ["validate", str(tmp_path / "to"), "--all", "--rerun", "1", "--seed", "0"]
    assert leaderboard.main([*arguments, "--verifier", "Ada Lovelace"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("evaluated again, and not run again") == 1
    assert printed.count("was run again by the code") == 1
    assert "2 of 2 rows reproduced" in printed
    assert "1 rows marked as verified" in printed
    found = read_marks(tmp_path / "to", read_rows(tmp_path / "to" / ROWS_FILE))
    assert found.refused == ()
    ((mark,),) = found.of.values()
    row = next(row for row in read_rows(tmp_path / "to" / ROWS_FILE) if row["cell"] == mark.cell)
    for made_from, message in (
        (row["rescored_from"], "was no run: the row's edit was scored again"),
        ({**row["rescored_from"], "cell": "0" * 64}, "scored again from another cell than the row"),
    ):
        rerun = {**mark.rerun, "rescored_from": made_from}
        rerun["row_sha256"] = row_hash(rerun)
        (tmp_path / "to" / MARKS_FILE).unlink()
        add_marks(tmp_path / "to", [Mark.of(row, rerun, "Ada Lovelace")])
        (problem,) = read_marks(tmp_path / "to", [row]).refused
        assert message in problem


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
    with pytest.raises(RescoringError, match="horizon of LifelongLLMEdit-v0 is none of what is"):
        rescored(stream, tmp_path / "to", "horizon=3")
    with pytest.raises(RescoringError, match=r"alpha of ShiftWorld-v0.*\(metrics\)"):
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


def test_what_shows_only_when_it_is_measured_fails_that_row_alone(world, own, tmp_path):
    first, second = read_rows(world / ROWS_FILE)
    broken = [Setting(None, "metrics", ["own_halves:broken"])]
    found = rescore_rows([second], world, tmp_path / "more", broken)
    assert "no such thing" in found.failed[0][1]
    other = {**first, "fingerprints": {**first["fingerprints"], "data": "0" * 64}}
    other["row_sha256"] = row_hash(other)
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    found = rescore_rows([other, second], world, tmp_path / "to", settings)
    assert [row["cell"] for row, _ in found.failed] == [first["cell"]]
    assert len(found.added) == 1


def copied(world, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(world, folder)
    return folder, read_rows(folder / ROWS_FILE)


def rows_that_were_changed(folder, rows):
    return [{**rows[0], "access": "oracle"}, {**rows[1], "seed": 9}], {
        "the row is not the one that was written: its SHA-256 differs": [0, 1]
    }


def journals_that_were_exchanged_or_lost(folder, rows):
    (folder / rows[0]["edit_file"]).write_bytes(b"another")
    (folder / rows[1]["edit_file"]).unlink()
    return rows, {
        f"{rows[0]['edit_file']} is not the file that was measured": [0],
        f"{rows[1]['edit_file']} is missing": [1],
    }


def the_second_alone(folder, rows):
    (folder / rows[1]["edit_file"]).write_bytes(b"another")
    return rows, {f"{rows[1]['edit_file']} is not the file that was measured": [1]}


@pytest.mark.parametrize(
    "damage",
    [rows_that_were_changed, journals_that_were_exchanged_or_lost, the_second_alone],
)
def test_all_rows_that_cannot_be_scored_are_named_before_the_first_is_written(
    world, own, tmp_path, damage
):
    folder, rows = copied(world, tmp_path)
    rows, reasons = damage(folder, rows)
    settings = [Setting("debiasing/templates", "metrics", ["own_halves:halves"])]
    with pytest.raises(RescoringError) as refused:
        rescore_rows(rows, folder, tmp_path / "to", settings)
    said = str(refused.value)
    count = len({place for places in reasons.values() for place in places})
    assert said.startswith(f"{count} of 2 rows cannot be scored again, and nothing was written:\n")
    for reason, places in reasons.items():
        own_part = said[said.index(reason) :]
        for place in places:
            assert f"seed {rows[place]['seed']}  {rows[place]['cell'][:12]}" in own_part
    assert "choose other rows by --rows, or score the others by --keep-going" in said
    assert not (tmp_path / "to").exists()
    found = rescore_rows(rows, folder, tmp_path / "to", settings, keep_going=True)
    assert (len(found.added), len(found.failed)) == (2 - count, count)
    assert len(read_rows(tmp_path / "to" / ROWS_FILE)) == 2 - count


@pytest.mark.parametrize(
    ("which", "pair", "message"),
    [
        ("stream", "scorer=nonsense", "scorer must be one of"),
        ("stream", 'evaluate_formats=["nope"]', "evaluate_formats"),
        ("stream", "max_new_tokens=0", "max_new_tokens must be 1 or more"),
        ("stream", "format_edits=-1", "format_edits must be 1 or more"),
        ("stream", "text=nowhere.txt", "text: no file at"),
        ("stream", "no_such=1", "no_such of LifelongLLMEdit-v0 is none of what is measured"),
        ("world", "metrics=own_halves:halves", "metrics must be a list"),
        ("world", 'metrics=["own_halves:nowhere"]', "has no 'nowhere'"),
        ("world", 'metrics=["nowhere:halves"]', "cannot import the module 'nowhere'"),
    ],
)
def test_a_value_that_is_not_right_is_refused_for_all_rows_at_once(
    request, own, tmp_path, which, pair, message
):
    folder = request.getfixturevalue(which)
    rows = read_rows(folder / ROWS_FILE)
    with pytest.raises(RescoringError) as refused:
        rescored(folder, tmp_path / "to", pair)
    said = str(refused.value)
    assert f"{len(rows)} of {len(rows)} rows cannot be scored again" in said
    assert said.count(message) == 1, "one reason, and all rows that it holds of"
    assert all(row["cell"][:12] in said for row in rows)
    assert not (tmp_path / "to").exists()


def test_a_row_of_an_earlier_version_lacks_fields_and_is_scored_again(world, own, tmp_path):
    (row, _) = read_rows(world / ROWS_FILE)
    for field in ("git", "peak_memory_bytes", "modules", "records_sha256"):
        del row[field]
    row["row_sha256"] = row_hash(row)
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    (new,) = rescore_rows([row], world, tmp_path / "to", settings).added
    assert new["rescored_from"]["git"] is None
    assert new["peak_memory_bytes"] is None
    assert rerun_row(new).problems == ()


def test_a_cell_of_another_edit_is_not_taken_for_this_one(world, own, tmp_path):
    (row, _) = read_rows(world / ROWS_FILE)
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    (new,) = rescore_rows([row], world, tmp_path / "to", settings).added
    other = {**new, "edit_sha256": "0" * 64}
    (tmp_path / "to" / ROWS_FILE).unlink()
    append_row(tmp_path / "to" / ROWS_FILE, {**other, "row_sha256": row_hash(other)})
    with pytest.raises(RescoringError, match="to has this cell already, of another edit"):
        rescore_rows([row], world, tmp_path / "to", settings)


def test_two_rows_that_become_one_cell_are_told_beforehand(world, own, tmp_path):
    """One of them lies: it says that it is the other's edit, measured otherwise."""
    (row, _) = read_rows(world / ROWS_FILE)
    liar, _ = rescored(world, tmp_path / "to", "metrics=[]").added
    journal = (world / row["edit_file"]).read_bytes() + b" "
    liar |= {"edit_sha256": hashlib.sha256(journal).hexdigest(), "edit_bytes": len(journal)}
    liar["row_sha256"] = row_hash(liar)
    folder, _ = copied(world, tmp_path)
    (folder / liar["edit_file"]).write_bytes(journal)
    settings = [Setting(None, "metrics", ["own_halves:halves"])]
    with pytest.raises(RescoringError, match=f"{row['cell'][:12]} becomes this cell already"):
        rescore_rows([row, liar], folder, tmp_path / "again", settings)


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
    rescored(world, tmp_path / "none", "metrics=[]")
    with pytest.raises(ValueError, match=r"measured otherwise: they have metrics=\[\] already"):
        rescored(tmp_path / "none", tmp_path / "to", "metrics=[]")
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
    (world_copy, _) = copied(world, tmp_path)
    (world_copy / row["edit_file"]).unlink()
    lost = ["rescore", "copy", "--set", 'metrics=["own_halves:halves"]', "--out", "rest"]
    assert leaderboard.main(lost) == 2
    assert "1 of 2 rows cannot be scored again, and nothing was written" in capsys.readouterr().err
    assert not Path("rest").exists()
    assert leaderboard.main([*lost, "--keep-going"]) == 1
    printed = capsys.readouterr()
    assert "rows: 1 scored again, 1 failed" in printed.out
    assert f"{row['cell'][:12]}\n    {row['edit_file']} is missing" in printed.err
    broken = ["rescore", str(world), "--set", 'metrics=["own_halves:broken"]', "--out", "no"]
    assert leaderboard.main(broken) == 1
    assert capsys.readouterr().err.count("FAILED  ") == 2
