"""Rows of several machines in one folder."""

import hashlib

import pytest

from benchmarks import leaderboard
from benchmarks.harness.storing import only_writer
from benchmarks.results import ROWS_FILE, Cell, append_row, read_rows, records_file, row_hash


@pytest.fixture
def folder(tmp_path, make_row):
    """`folder(name, *(agent, seed, reliability))`: a folder with rows, journals and records."""

    def made(name, *runs, status="finished"):
        for agent, seed, reliability in runs:
            content = f"{agent} {seed}".encode()
            measured = {"status": status, "journal": content, "records": b"{}\n"}
            if status != "finished":
                measured = {"status": status, "error": "no", "time": {}}
            row = make_row(agent, seed, metrics={"reliability": reliability}, measured=measured)
            if status == "finished":
                for file, own in (
                    (row["edit_file"], content),
                    (records_file(row["cell"]), b"{}\n"),
                ):
                    path = tmp_path / name / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(own)
            (tmp_path / name).mkdir(exist_ok=True)
            append_row(tmp_path / name / ROWS_FILE, row)
        return tmp_path / name

    return made


def merged(*folders, to):
    return leaderboard.main(["merge", *map(str, folders), "--out", str(to)])


def test_rows_journals_and_records_of_all_are_in_one(folder, tmp_path, capsys):
    one, other = folder("one", ("ppo", 0, 0.5)), folder("other", ("ppo", 1, 0.6), ("sac", 0, 0.1))
    to = tmp_path / "all"
    assert merged(one, other, to=to) == 0
    assert "3 rows, 3 of them new" in capsys.readouterr().out
    rows = read_rows(to / ROWS_FILE)
    assert [(row["agent"], row["seed"]) for row in rows] == [("ppo", 0), ("ppo", 1), ("sac", 0)]
    for row in rows:
        content = (to / row["edit_file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["edit_sha256"]
        assert (to / records_file(row["cell"])).is_file()
    before = (to / ROWS_FILE).read_bytes()
    assert merged(one, to=to) == 0
    assert "3 rows, 0 of them new" in capsys.readouterr().out
    assert (to / ROWS_FILE).read_bytes() == before


def test_a_finished_row_takes_the_place_of_a_failed_one_and_not_the_other_way(folder, tmp_path):
    failed, good = (
        folder("failed", ("ppo", 0, 0.0), status="failed"),
        folder("good", ("ppo", 0, 0.5)),
    )
    for order in ((failed, good), (good, failed)):
        to = tmp_path / "-".join(one.name for one in order)
        assert merged(*order, to=to) == 0
        assert [row["status"] for row in read_rows(to / ROWS_FILE)] == ["finished"]


def test_different_results_of_one_cell_are_an_error_that_names_both(folder, tmp_path, capsys):
    one, other = folder("one", ("ppo", 0, 0.5)), folder("other", ("ppo", 0, 0.6))
    assert merged(one, other, to=tmp_path / "all") == 2
    error = capsys.readouterr().err
    assert f"different results in {other} and {one}, in metrics" in error
    assert not (tmp_path / "all").exists()


def test_whatever_is_not_as_it_was_measured_stops_the_merge(folder, tmp_path, capsys):
    one, other = folder("one", ("ppo", 0, 0.5)), folder("other", ("sac", 0, 0.6))
    (row,) = read_rows(other / ROWS_FILE)
    (other / row["edit_file"]).write_bytes(b"else")
    assert merged(one, other, to=tmp_path / "all") == 2
    assert "is not the file that was measured" in capsys.readouterr().err
    (other / row["edit_file"]).unlink()
    assert merged(one, other, to=tmp_path / "all") == 2
    assert "is missing" in capsys.readouterr().err
    assert merged(one, tmp_path / "nothing", to=tmp_path / "all") == 2
    assert "no rows in" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_a_row_that_was_scored_again_stands_beside_a_run_of_the_same_arguments(
    folder, tmp_path, capsys
):
    one, other = folder("one", ("ppo", 0, 0.5)), folder("other", ("ppo", 0, 0.25))
    (row,) = read_rows(other / ROWS_FILE)
    row["rescored_from"] = {"cell": "0" * 64, "set": {"task": row["task"]}}
    row["cell"] = Cell.of(row).id
    journal = f"edits/{row['cell']}.safetensors"
    (other / row["edit_file"]).rename(other / journal)
    row["edit_file"] = journal
    (other / ROWS_FILE).unlink()
    append_row(other / ROWS_FILE, {**row, "row_sha256": row_hash(row)})
    to = tmp_path / "all"
    assert merged(one, other, to=to) == 0
    assert "2 rows, 2 of them new" in capsys.readouterr().out
    assert ["rescored_from" in row for row in read_rows(to / ROWS_FILE)] == [False, True]


def test_a_journal_takes_no_other_ones_place(folder, tmp_path, capsys):
    """A row of an earlier schema, as a stranger may write one, with the name of another's file."""
    one, other = folder("one", ("ppo", 0, 0.5)), folder("other", ("sac", 0, 0.6))
    (good,), (row,) = (read_rows(place / ROWS_FILE) for place in (one, other))
    (other / row["edit_file"]).rename(other / good["edit_file"])
    forged = {**row, "edit_file": good["edit_file"]}
    to, before = tmp_path / "all", (one / good["edit_file"]).read_bytes()
    assert merged(one, to=to) == 0
    for stranger, said in (
        ({**forged, "row_sha256": row_hash(forged)}, "journals lie at edits/CELL.safetensors"),
        ({**forged, "row_sha256": None, "migrated_from": 1}, "none of those that were published"),
    ):
        (other / ROWS_FILE).unlink()
        append_row(other / ROWS_FILE, stranger)
        assert merged(other, to=to) == 2
        assert said in capsys.readouterr().err
        assert (to / good["edit_file"]).read_bytes() == before


@pytest.mark.parametrize("there", ["finished", "failed"])
def test_what_is_shipped_takes_the_place_of_a_worse_row_alone(folder, there):
    """What is published is not replaced by a cell that failed later, nor by another result."""
    published = folder("published", ("ppo", 0, 0.5), status=there)
    failed = folder("again", ("ppo", 0, 0.0), status="failed")
    assert leaderboard.main(["ship", str(failed), str(published)]) == 0
    (row,) = read_rows(published / ROWS_FILE)
    assert row["status"] == there
    good = folder("good", ("ppo", 0, 0.5))
    assert leaderboard.main(["ship", str(good), str(published)]) == 0
    (row,) = read_rows(published / ROWS_FILE)
    assert (row["status"], row["metrics"]["reliability"]) == ("finished", 0.5)
    assert (published / row["edit_file"]).is_file()


def test_another_result_is_not_shipped_over_what_is_published(folder, capsys):
    published, other = folder("published", ("ppo", 0, 0.5)), folder("other", ("ppo", 0, 0.9))
    before = (published / ROWS_FILE).read_bytes()
    assert leaderboard.main(["ship", str(other), str(published)]) == 2
    error = capsys.readouterr().err
    assert "has different results in" in error
    for place in (published, other):
        assert f"leaderboard validate {place} --rows " in error
    assert (published / ROWS_FILE).read_bytes() == before


@pytest.mark.parametrize("command", ["ship", "merge"])
def test_a_file_is_no_folder_to_write_into(folder, tmp_path, capsys, command):
    one, to = folder("one", ("ppo", 0, 0.5)), tmp_path / "to"
    to.write_text("mine")
    typed = [str(one), str(to)] if command == "ship" else [str(one), "--out", str(to)]
    assert leaderboard.main([command, *typed]) == 2
    assert f"{to} is a file, and must be a folder" in capsys.readouterr().err
    assert to.read_text() == "mine"


@pytest.mark.parametrize("command", ["ship", "merge"])
def test_nothing_is_added_while_a_run_writes_there(folder, tmp_path, capsys, command):
    one, to = folder("one", ("ppo", 0, 0.5)), folder("to", ("ppo", 1, 0.5))
    typed = [str(one), str(to)] if command == "ship" else [str(one), "--out", str(to)]
    with only_writer(to):
        assert leaderboard.main([command, *typed]) == 2
    assert "another run is writing to" in capsys.readouterr().err
    assert len(read_rows(to / ROWS_FILE)) == 1
    assert leaderboard.main([command, *typed]) == 0
    assert len(read_rows(to / ROWS_FILE)) == 2
