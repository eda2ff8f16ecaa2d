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

from benchmarks.results import (
    ROWS_FILE,
    SHIPPED_BYTES,
    ResultsError,
    Row,
    append_row,
    canonical_json,
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
    their marks of verification.

    Everything is read and checked before anything is written.

    Raises:
        FileNotFoundError: `folder` has no rows.
        ValueError: Both are the same folder.
        ResultsError: A row was changed, a journal is missing or is not the one that was measured,
            or a mark does not hold.
        OSError: The destination cannot be written.
    """
    if folder.resolve() == destination.resolve():
        raise ValueError(f"{destination} is the folder itself: give another one")
    rows = rows_in(folder)
    known = {canonical_json(row) for row in read_rows(destination / ROWS_FILE)}
    _check_journals(rows, folder)
    marks = checked_marks(folder, rows)
    small = [row for row in rows if 0 < _size(row, folder) <= SHIPPED_BYTES]
    for row in small:
        target = destination / row["edit_file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / row["edit_file"], target)
    destination.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if canonical_json(row) not in known:
            append_row(destination / ROWS_FILE, row)
    add_marks(destination, marks)
    with_edits = sum(row["edit_file"] is not None for row in rows)
    return Shipped(len(rows), len(small), with_edits - len(small))


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
