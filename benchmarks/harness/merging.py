"""Rows of several folders in one: parts of a suite that were run on several machines."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.storing import writing_into
from benchmarks.results import (
    ROWS_FILE,
    ResultsError,
    Row,
    append_row,
    differing_fields,
    is_elsewhere,
    journal_problem,
    read_rows,
    records_file,
    records_problem,
    rows_in,
)
from benchmarks.results.marks import Mark, add_marks, checked_marks
from benchmarks.results.rows import FINISHED_FIRST


@dataclass(frozen=True)
class Merged:
    """What was written.

    Attributes:
        rows: Rows that the destination has now.
        added: How many of them are new there, or in the place of a worse one.
    """

    rows: int
    added: int


def merge_rows(folders: Sequence[Path], destination: Path) -> Merged:
    """Add the rows of `folders` to those of `destination`, with journals, per-edit records and
    marks of verification.

    Of a cell that is there twice the finished row is kept, else the unsupported one; of two that
    say the same the first. Everything is read and checked before anything is written.

    Raises:
        FileNotFoundError: A folder has no rows.
        ResultsError: Rows of one cell have different results; or a row was changed, a journal or
            records are missing or not those that were measured, or a mark does not hold.
        RunnerError: A run is writing to the destination.
        OSError: The destination cannot be written.
    """
    with writing_into(destination):
        return _merge(folders, destination)


def _merge(folders: Sequence[Path], destination: Path) -> Merged:
    known = {row["cell"]: (row, destination) for row in read_rows(destination / ROWS_FILE)}
    chosen = dict(known)
    marks: list[Mark] = []
    for folder in folders:
        rows = rows_in(folder)
        marks += checked_marks(folder, rows)
        for row in rows:
            _check_files(row, folder)
            other = chosen.get(row["cell"])
            if other is None or is_better(row, folder, *other):
                chosen[row["cell"]] = row, folder
    added = [(row, folder) for row, folder in chosen.values() if folder != destination]
    destination.mkdir(parents=True, exist_ok=True)
    for row, folder in added:
        for name in (row["edit_file"], records_file(row["cell"])):
            if name is not None and (folder / name).is_file():
                (destination / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, destination / name)
        append_row(destination / ROWS_FILE, row)
    kept = {row["row_sha256"] for row, _ in chosen.values()}
    add_marks(destination, [mark for mark in marks if mark.row_sha256 in kept])
    return Merged(len(chosen), len(added))


def is_better(row: Row, folder: Path, other: Row, where: Path) -> bool:
    """Whether a row takes the place of another one of its cell.

    Args:
        row: The row.
        folder: Its folder, for the message.
        other: The other one.
        where: The folder of that, likewise.

    Raises:
        ResultsError: Both have results, and these differ.
    """
    rank, others = (FINISHED_FIRST.index(one["status"]) for one in (row, other))
    if rank != others or row["status"] != "finished":
        return rank < others
    if fields := differing_fields(row, other):
        raise ResultsError(
            f"cell {row['cell']} has different results in {folder} and {where}, in"
            f" {', '.join(fields)}: find out which of the two is right (leaderboard validate"
            f" {shlex.quote(str(folder))} --rows {row['cell'][:12]}; leaderboard validate"
            f" {shlex.quote(str(where))} --rows {row['cell'][:12]}), and delete the other line."
            " Nothing was written"
        )
    return False


def _check_files(row: Row, folder: Path) -> None:
    problem = records_problem(row, folder)
    if problem is None and not is_elsewhere(row, folder):
        problem = journal_problem(row, folder)
    if problem is not None:
        raise ResultsError(
            f"{folder / ROWS_FILE}, cell {row['cell']}: {problem}. Nothing was written"
        )
