"""A row or a journal that was changed after it was written is refused by whoever reads it."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import leaderboard
from benchmarks.harness.runner import run_cells
from benchmarks.harness.shipping import ship_rows
from benchmarks.results import ROWS_FILE, ResultsError, append_row, read_rows, row_hash, row_problem
from benchmarks.suites.cells import cells
from benchmarks.suites.entry import Entry, Suite

COMMITTED = Path(__file__).parents[2] / "docs" / "results"


def rewritten(row, **changes):
    row = {**row, **changes}
    return {**row, "row_sha256": row_hash(row)}


def changed_row(row):
    return {**row, "metrics": {**row["metrics"], "retain_accuracy": 1.0}}


def row_of_another_cell(row):
    """A row that was hashed again, whose settings are no longer its cell's."""
    return rewritten(row, settings={"num_envs": 65})


CHANGES = {
    "SHA-256 differs": changed_row,
    "is not of its cell": row_of_another_cell,
    "not the one that was written": lambda row: {**row, "row_sha256": None},
}


def write(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / ROWS_FILE).unlink(missing_ok=True)
    for row in rows:
        append_row(folder / ROWS_FILE, row)


@pytest.fixture
def rows(make_row):
    return [make_row(agent, metrics={"retain_accuracy": 0.5}) for agent in ("ppo", "random")]


@pytest.fixture
def finished(tmp_path):
    """The finished row of a quick cell, and its folder."""
    entry = Entry("ShiftWorld-v0", "unlearning/digits", ("random",), reward_calls=64)
    folder = tmp_path / "finished"
    (row,) = run_cells(cells(Suite("quick", 1, (entry,))), folder)
    assert row["status"] == "finished", row["error"]
    return row, folder


@pytest.mark.parametrize("message", CHANGES)
@pytest.mark.parametrize("command", ["report", "ship", "run"])
def test_a_changed_row_is_refused(rows, tmp_path, capsys, message, command):
    changed = CHANGES[message](rows[1])
    write(tmp_path, rows[0], changed)
    arguments = {
        "report": ["report", str(tmp_path)],
        "ship": ["ship", str(tmp_path), str(tmp_path / "to")],
        "run": ["run", "--suite", "quick", "--agents", "no_edit", "--out", str(tmp_path)],
    }
    before = sorted(tmp_path.iterdir())
    assert leaderboard.main(arguments[command]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / ROWS_FILE}, line 2, cell {changed['cell']}: " in error
    assert message in error
    assert "delete it and run its cell again" in error
    assert [one for one in sorted(tmp_path.iterdir()) if not one.name.endswith(".lock")] == before


def test_rows_that_were_written_are_read(rows, tmp_path):
    write(tmp_path, *rows)
    assert read_rows(tmp_path / ROWS_FILE) == rows
    assert [row_problem(row) for row in rows] == [None, None]


def test_a_migrated_row_that_was_shipped_has_no_hash_and_is_read(tmp_path):
    line = (COMMITTED / "worlds" / ROWS_FILE).open().readline()
    (tmp_path / ROWS_FILE).write_text(line)
    (row,) = read_rows(tmp_path / ROWS_FILE)
    write(tmp_path / "shipped", row)
    assert read_rows(tmp_path / "shipped" / ROWS_FILE) == [row]
    write(tmp_path / "shipped", {**row, "seed": 99})
    with pytest.raises(ResultsError, match="is not of its cell"):
        read_rows(tmp_path / "shipped" / ROWS_FILE)
    write(tmp_path / "shipped", {**row, "row_sha256": "0" * 64})
    with pytest.raises(ResultsError, match="SHA-256 differs"):
        read_rows(tmp_path / "shipped" / ROWS_FILE)


@pytest.mark.parametrize("number", ["NaN", "1e999"])
def test_a_number_that_no_row_can_have_is_a_results_error(rows, tmp_path, number):
    text = json.dumps({**rows[0], "env_kwargs": {"x": 7}}).replace('"x": 7', f'"x": {number}')
    (tmp_path / ROWS_FILE).write_text(f"{text}\n")
    for refuse in (True, False):
        with pytest.raises(ResultsError, match=r"line 1 is not .*delete that line"):
            read_rows(tmp_path / ROWS_FILE, refuse_changed=refuse)


def test_validate_names_changed_rows_that_it_does_not_replay(finished, capsys):
    row, folder = finished
    other = rewritten({**row, "seed": 5, "cell": "0" * 64})
    append_row(folder / ROWS_FILE, {**other, "status": "failed", "edit_file": None})
    assert leaderboard.main(["validate", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed
    assert "not the one that was written" in printed
    assert "1 of 1 rows reproduced" in printed
    assert "1 of 2 rows were changed" in printed


def test_a_journal_that_is_not_the_rows_is_not_shipped(finished, tmp_path):
    row, folder = finished
    (folder / row["edit_file"]).write_bytes(b"another")
    with pytest.raises(ResultsError, match="is not the file that was measured: its SHA-256") as no:
        ship_rows(folder, tmp_path / "to")
    assert f"{folder / ROWS_FILE}, cell {row['cell']}: {row['edit_file']}" in str(no.value)
    assert not (tmp_path / "to").exists()


def test_a_large_journal_that_is_here_is_compared_too(finished, tmp_path, monkeypatch):
    row, folder = finished
    for module in ("benchmarks.results.integrity", "benchmarks.harness.shipping"):
        monkeypatch.setattr(f"{module}.SHIPPED_BYTES", 100)
    assert ship_rows(folder, tmp_path / "to").by_hash == 1
    (folder / row["edit_file"]).write_bytes(b"another")
    with pytest.raises(ResultsError, match="is not the file that was measured"):
        ship_rows(folder, tmp_path / "other")


def test_where_every_journal_is_elsewhere_validate_says_so(finished, monkeypatch, capsys):
    row, folder = finished
    monkeypatch.setattr("benchmarks.results.integrity.SHIPPED_BYTES", 100)
    (folder / row["edit_file"]).unlink()
    assert leaderboard.main(["validate", str(folder)]) == 2
    assert "no finished row is left to be replayed: put their journals" in capsys.readouterr().err


def test_a_row_that_lies_of_its_journals_size_is_named(finished, tmp_path):
    """Or a small journal would be said to be published by its hash alone."""
    row, folder = finished
    write(folder, rewritten(row, edit_bytes=10**6))
    with pytest.raises(ResultsError, match=r"has [0-9,]+ bytes, and edit_bytes says 1,000,000"):
        ship_rows(folder, tmp_path / "to")


def test_a_missing_journal_is_said_and_nothing_is_copied(finished, tmp_path, capsys):
    row, folder = finished
    shutil.rmtree(folder / "edits")
    assert leaderboard.main(["ship", str(folder), str(tmp_path / "to")]) == 2
    error = capsys.readouterr().err
    assert f"cell {row['cell']}: {row['edit_file']} is missing" in error
    assert f"Put the file back into {folder}, or delete the row's line" in error
    assert "Errno" not in error
    assert not (tmp_path / "to").exists()


def test_rows_of_schema_1_say_that_they_came_without_journals(tmp_path, capsys):
    assert leaderboard.main(["ship", str(COMMITTED / "paper"), str(tmp_path / "to")]) == 2
    error = capsys.readouterr().err
    assert "is missing, and 227 more journals" in error
    assert "Rows of schema 1 came without journals" in error
    assert not (tmp_path / "to").exists()
