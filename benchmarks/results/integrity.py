"""Whether a row, and the journal beside it, are still the ones that were written.

Everything that reads rows asks here: `read_rows` refuses rows that were changed, `validate` names
them, and `ship` copies no journal but the one that was measured.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from benchmarks.results.cell import Cell, Row
from benchmarks.results.migration import is_published
from benchmarks.results.rows import SHIPPED_BYTES, records_file, row_hash

# Of rows of schema 1 the file has the name that their cell had then.
_JOURNAL = re.compile(r"edits/[0-9a-f]{64}\.safetensors")


def row_problem(row: Row) -> str | None:
    """How a row differs from the one that was written; None where it does not.

    A row that was migrated from schema 1 has no hash: it must be one of those that were published.
    """
    named, recorded = row["cell"], row["row_sha256"]
    try:
        made, found = Cell.of(row).id, row_hash(row)
    except ValueError as error:
        return f"the row is not the one that was written: {error}"
    is_migrated = "migrated_from" in row
    if recorded != found and not (recorded is None and is_migrated):
        return "the row is not the one that was written: its SHA-256 differs"
    if named != made:
        return f"the row is not of its cell: what it says was run makes the cell {made}"
    if is_migrated and not is_published(row):
        return (
            "the row is not the one that was written: it is read as one of schema 1, which have no"
            " SHA-256 of their own, and is none of those that were published"
        )
    file = row["edit_file"]
    own = is_migrated or file == f"edits/{row['cell']}.safetensors"
    if file is not None and not (own and _JOURNAL.fullmatch(file)):
        return f"its edit_file is {file!r}, and journals lie at edits/CELL.safetensors"
    return None


def journal_problem(row: Row, folder: Path) -> str | None:
    """Why the journal of a row in `folder` cannot be used; None where it can, or there is none."""
    if row["edit_file"] is None:
        return None
    if not os.path.lexists(folder / row["edit_file"]):
        return _missing(row)
    if (problem := _changed(row["edit_file"], folder, row["edit_sha256"])) is not None:
        return problem
    size = (folder / row["edit_file"]).stat().st_size
    if row["edit_bytes"] not in (None, size):
        return f"{row['edit_file']} has {size:,} bytes, and edit_bytes says {row['edit_bytes']:,}"
    return None


def records_problem(row: Row, folder: Path) -> str | None:
    """How the per-edit records of a row in `folder` differ from those that were measured; None
    where they do not, are not here, or the row is of a version that kept no hash of them.
    """
    name, recorded = records_file(row["cell"]), row.get("records_sha256")
    if not os.path.lexists(folder / name):
        return None
    return place_problem(name, folder) if recorded is None else _changed(name, folder, recorded)


def place_problem(name: str, folder: Path) -> str | None:
    """Why what lies at a name in `folder` cannot be read; None where it is a file of the folder."""
    file = folder / name
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        return f"{name} leads out of {folder}"
    if not file.is_file():
        return f"{name} is a folder, a pipe, a device or a link to nothing, and must be a file"
    return None


def _changed(name: str, folder: Path, recorded: str) -> str | None:
    """How the file at a name differs from the one that was measured."""
    if (problem := place_problem(name, folder)) is not None:
        return problem
    with (folder / name).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != recorded:
        return f"{name} is not the file that was measured: its SHA-256 differs"
    return None


def ships_by_hash_alone(row: Row) -> bool:
    """Whether a row's journal is too large to be published beside it."""
    return (row["edit_bytes"] or 0) > SHIPPED_BYTES


def is_elsewhere(row: Row, folder: Path) -> bool:
    """Whether a row's journal is published by its hash alone, and not in `folder`."""
    return ships_by_hash_alone(row) and not (folder / row["edit_file"]).is_file()


def _missing(row: Row) -> str:
    if ships_by_hash_alone(row):
        return (
            f"{row['edit_file']} is not here: its {row['edit_bytes']:,} bytes are published by"
            " their SHA-256 alone; run the cell again to compare it"
        )
    return f"{row['edit_file']} is missing"
