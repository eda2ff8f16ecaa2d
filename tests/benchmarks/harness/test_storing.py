"""The folder of results has one writer, which sees when somebody else writes there."""

import os

import pytest

from benchmarks.harness import runner, storing
from benchmarks.harness.measure import Outcome
from benchmarks.harness.runner import run_cells
from benchmarks.harness.storing import RunnerError, only_writer
from benchmarks.results import ROWS_FILE, append_row, read_rows


def appends(file, row):
    append_row(file, {**row, "cell": "0" * 64})


def cuts(file, row):
    file.write_bytes(b"")


def writes_the_same_in_the_same_moment(file, row):
    state = file.stat()
    file.write_bytes(file.read_bytes().replace(b"0.5", b"0.9"))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def removes(file, row):
    file.unlink()


def exchanges(file, row):
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize(
    "meddle", [appends, cuts, writes_the_same_in_the_same_moment, removes, exchanges]
)
def test_a_file_that_somebody_else_writes_to_stops_the_writing(tmp_path, make_row, meddle):
    first, second = (make_row(agent, metrics={"a": 0.5}) for agent in ("ppo", "cmaes"))
    file = tmp_path / ROWS_FILE
    with only_writer(tmp_path) as store:
        store.add(first, None, None)
        assert store.rows() == [first]
        meddle(file, second)
        with pytest.raises(RunnerError, match=f"else since the row of the cell {first['cell']}"):
            store.add(second, b"a journal", None)
        with pytest.raises(RunnerError, match="was written to by somebody else"):
            store.rows()
    assert second["cell"] not in {row["cell"] for row in read_rows(file, refuse_changed=False)}
    assert not (tmp_path / "edits").exists()


def test_files_lie_beside_their_rows(tmp_path, make_row):
    row = make_row(measured={"journal": b"abc", "records": b"{}\n"})
    with only_writer(tmp_path) as store:
        store.add(row, b"abc", b"{}\n")
        store.add(make_row("ppo"), None, None)
    assert (tmp_path / row["edit_file"]).read_bytes() == b"abc"
    assert (tmp_path / f"records/{row['cell']}.jsonl").read_bytes() == b"{}\n"
    assert len(read_rows(tmp_path / ROWS_FILE)) == 2


def test_an_agent_that_writes_rows_stops_the_run_and_is_not_believed(
    tmp_path, make_cell, make_row, monkeypatch
):
    cells = [make_cell(agent) for agent in ("no_edit", "ppo", "cmaes")]

    def forging(cell, place, kept):
        if cell.agent == "ppo":
            better = make_row("no_edit", metrics={"retain_accuracy": 1.0})
            append_row(tmp_path / ROWS_FILE, better)
        return Outcome(make_row(cell.agent, metrics={"retain_accuracy": 0.5}))

    monkeypatch.setattr(runner, "run_cell", forging)
    with pytest.raises(RunnerError, match=r"agents can do it\. Look at the lines after"):
        run_cells(cells, tmp_path)


@pytest.mark.parametrize("after", [False, True])
def test_a_row_that_is_written_while_another_one_is_stops_the_run(
    tmp_path, make_row, monkeypatch, after
):
    forged = make_row("cmaes")

    def beside(path, row):
        if not after:
            append_row(path, forged)
        place = append_row(path, row)
        if after:
            append_row(path, forged)
        return place

    monkeypatch.setattr(storing, "append_row", beside)
    with (
        only_writer(tmp_path) as store,
        pytest.raises(RunnerError, match="written to by somebody else since the beginning"),
    ):
        store.add(make_row("no_edit"), None, None)


def test_what_a_killed_run_left_half_written_is_gone_in_the_next(tmp_path, make_row):
    half = tmp_path / "edits" / "a.safetensors.123.partial"
    half.parent.mkdir()
    half.write_bytes(b"half")
    of_a_report = tmp_path / "plots" / "a.svg.123.partial"  # which is being drawn meanwhile
    of_a_report.parent.mkdir()
    of_a_report.write_bytes(b"half")
    with only_writer(tmp_path) as store:
        row = make_row("ppo", measured={"journal": b"a journal"})
        store.add(row, b"a journal", None)
    assert [file.name for file in half.parent.iterdir()] == [row["edit_file"].split("/")[-1]]
    assert of_a_report.exists()
