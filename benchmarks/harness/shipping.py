"""Results for publication: rows with their journals where these are small.

A low-rank edit takes kilobytes, and its journal is published beside its row, so that anybody can
replay it. Edits of whole networks take megabytes: their rows hold size and SHA-256 of the journal,
and whoever runs the cell again compares.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import ROWS_FILE, SHIPPED_BYTES, Row, append_row, canonical_json, read_rows


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
    """Copy the rows of `folder` that `destination` does not hold yet, and their small journals.

    Raises:
        ValueError: `folder` has no rows, or both are the same folder.
        FileNotFoundError: A journal that should be published is not there.
        OSError: The destination cannot be written.
    """
    if folder.resolve() == destination.resolve():
        raise ValueError(f"{destination} is the folder itself: give another one")
    rows = read_rows(folder / ROWS_FILE)
    if not rows:
        raise ValueError(f"no rows in {folder / ROWS_FILE}: run a suite with --out {folder} first")
    small = [row for row in rows if 0 < _size(row, folder) <= SHIPPED_BYTES]
    for row in small:
        target = destination / row["edit_file"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / row["edit_file"], target)
    destination.mkdir(parents=True, exist_ok=True)
    known = {canonical_json(row) for row in read_rows(destination / ROWS_FILE)}
    for row in rows:
        if canonical_json(row) not in known:
            append_row(destination / ROWS_FILE, row)
    with_edits = sum(row["edit_file"] is not None for row in rows)
    return Shipped(len(rows), len(small), with_edits - len(small))


def _size(row: Row, folder: Path) -> int:
    """Bytes of the row's journal; 0 where there is no edit."""
    if row["edit_file"] is None:
        return 0
    known: int | None = row["edit_bytes"]
    return (folder / row["edit_file"]).stat().st_size if known is None else known
