"""Results for publication: rows with their journals where these are small.

A low-rank edit takes kilobytes, and its journal is published beside its row, so that anybody can
replay it. Edits of whole networks take megabytes: their rows hold size and SHA-256 of the journal,
and whoever runs the cell again compares.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.merging import is_better
from benchmarks.harness.storing import writing_into
from benchmarks.results import (
    ROWS_FILE,
    SHIPPED_BYTES,
    ResultsError,
    Row,
    append_row,
    journal_problem,
    read_rows,
    rows_in,
    ships_by_hash_alone,
)
from benchmarks.results.marks import add_marks, checked_marks


@dataclass(frozen=True)
class Shipped:
    """What was copied.

    Attributes:
        rows: Number of rows.
        journals: Number of journals beside them.
        by_hash: Number of rows whose journal is published by its hash alone.
    """

    rows: int
    journals: int
    by_hash: int


def ship_rows(folder: Path, destination: Path) -> Shipped:
    """Copy the rows of `folder` that `destination` does not hold yet, their small journals, and
    their marks of verification. Of a cell that both have the finished row is kept, as in
    `merge_rows`.

    Everything is read and checked before anything is written.

    Raises:
        FileNotFoundError: `folder` has no rows.
        ValueError: Both are the same folder.
        ResultsError: A row was changed, a journal is missing or is not the one that was measured,
            a mark does not hold, or the destination has a cell with another result.
        RunnerError: A run is writing to the destination.
        OSError: The destination cannot be written.
    """
    if folder.resolve() == destination.resolve():
        raise ValueError(f"{destination} is the folder itself: give another one")
    rows = rows_in(folder)
    _check_journals(rows, folder)
    marks = checked_marks(folder, rows)
    with writing_into(destination):
        kept = {row["cell"]: row for row in read_rows(destination / ROWS_FILE)}
        new = [row for row in rows if _is_new(row, folder, kept.get(row["cell"]), destination)]
        kept |= {row["cell"]: row for row in new}
        small = [
            row
            for row in rows
            if 0 < _size(row, folder) <= SHIPPED_BYTES
            and kept[row["cell"]]["edit_sha256"] == row["edit_sha256"]
        ]
        for row in small:
            target = destination / row["edit_file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / row["edit_file"], target)
        destination.mkdir(parents=True, exist_ok=True)
        for row in new:
            append_row(destination / ROWS_FILE, row)
        there = {row["row_sha256"] for row in kept.values()}
        add_marks(destination, [mark for mark in marks if mark.row_sha256 in there])
    with_edits = sum(row["edit_file"] is not None for row in rows)
    return Shipped(len(rows), len(small), with_edits - len(small))


def _is_new(row: Row, folder: Path, other: Row | None, destination: Path) -> bool:
    """Whether a row is copied: its cell has none there, or a worse one."""
    return other is None or is_better(row, folder, other, destination)


def _check_journals(rows: Sequence[Row], folder: Path) -> None:
    """Refuse journals that are not the ones that were measured; one that is published by its hash
    alone need not be here.
    """
    wrong = [
        (row, problem)
        for row in rows
        if not (ships_by_hash_alone(row) and not (folder / row["edit_file"]).is_file())
        and (problem := journal_problem(row, folder)) is not None
    ]
    if not wrong:
        return
    row, problem = wrong[0]
    more = f", and {len(wrong) - 1} more journals" if len(wrong) > 1 else ""
    old = " Rows of schema 1 came without journals." if "migrated_from" in row else ""
    raise ResultsError(
        f"{folder / ROWS_FILE}, cell {row['cell']}: {problem}{more}. Nothing was copied. Put"
        f" the file back into {folder}, or delete the row's line and run its cell again.{old}"
    )


def _size(row: Row, folder: Path) -> int:
    """Bytes of the row's journal; 0 where there is no edit."""
    if row["edit_file"] is None:
        return 0
    known: int | None = row["edit_bytes"]
    return (folder / row["edit_file"]).stat().st_size if known is None else known
