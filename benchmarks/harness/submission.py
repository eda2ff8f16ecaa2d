"""A submission: rows, journals, per-edit records, marks and disclosure in one archive, with the
SHA-256 of each file.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.results import (
    ROWS_FILE,
    ResultsError,
    Row,
    journal_problem,
    records_file,
    records_problem,
    rows_in,
)
from benchmarks.results.disclosure import DISCLOSURE_FILE, form, read_disclosure
from benchmarks.results.marks import MARKS_FILE, checked_marks
from editgym.paths import whole_file

SUMS_FILE = "SHA256SUMS"
# The same files give the same archive, whenever it is packed; zip knows no earlier time.
_WHEN = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o100644 << 16  # a file that its owner writes and everybody reads


@dataclass(frozen=True)
class Submission:
    """What was packed.

    Attributes:
        rows: Number of rows.
        marked: Number of rows that somebody else verified.
        files: Number of files in the archive.
        sha256: SHA-256 (hexadecimal) of the archive.
    """

    rows: int
    marked: int
    files: int
    sha256: str


def submit_rows(folder: Path, archive: Path) -> Submission:
    """Replay every finished row of a folder, and pack the folder where all are reproduced.

    Args:
        folder: Rows, with all their journals and records, and `disclosure.toml`. Where that is
            missing an empty form is written.
        archive: The zip file to write, whole or not at all.

    Raises:
        FileNotFoundError: There are no rows, or no disclosure.
        ValueError: The disclosure has a question without an answer, or the archive's name does not
            end in `.zip`; nothing was done then.
        ResultsError: A row was changed or is not reproduced, a journal or records are missing, or a
            mark of verification does not hold.
        OSError: The archive cannot be written.
    """
    if archive.suffix.lower() != ".zip":
        raise ValueError(f"--out: {archive} must end in .zip, which is what is written")
    rows = rows_in(folder)
    disclosure = folder / DISCLOSURE_FILE
    if not disclosure.exists():
        disclosure.write_text(form(), encoding="utf-8")
        raise FileNotFoundError(
            f"{disclosure} was missing: a form is there now; answer its questions, and give the"
            " same command again"
        )
    read_disclosure(disclosure)
    marks = checked_marks(folder, rows)
    for row in rows:
        _check_files(row, folder)
    _check_reproduced(rows, folder)
    names = [ROWS_FILE, DISCLOSURE_FILE, *([MARKS_FILE] if marks else [])]
    for row in rows:
        names += [row["edit_file"]] if row["edit_file"] else []
        names += (
            [records_file(row["cell"])] if (folder / records_file(row["cell"])).is_file() else []
        )
    contents = {name: (folder / name).read_bytes() for name in sorted(names)}
    packed = _pack(contents, archive)
    marked = len({mark.row_sha256 for mark in marks})
    return Submission(len(rows), marked, len(contents) + 1, packed)


def _check_files(row: Row, folder: Path) -> None:
    """Refuse a row whose journal or records are not all here."""
    problem = journal_problem(row, folder) or records_problem(row, folder)
    name = records_file(row["cell"])
    if problem is None and row.get("records_sha256") and not (folder / name).is_file():
        problem = f"{name} is missing"
    if problem is not None:
        raise ResultsError(f"cell {row['cell']}: {problem}. Nothing was packed")


def _check_reproduced(rows: list[Row], folder: Path) -> None:
    """Replay every finished row, and refuse where one is not reproduced."""
    from benchmarks.harness.validation import finished_rows, validate_row

    problems = {}
    for row in tqdm(finished_rows(rows), desc="replayed", unit="row", ncols=100):
        if found := validate_row(row, folder).problems:
            problems[row["cell"]] = found[0]
    if problems:
        cell, problem = next(iter(problems.items()))
        raise ResultsError(
            f"{len(problems)} of {len(rows)} rows are not reproduced, the first of them cell"
            f" {cell}: {problem}; leaderboard validate {folder} --all says all. Nothing was packed"
        )


def _pack(contents: Mapping[str, bytes], archive: Path) -> str:
    """Write the files and their hashes as a zip file, and return its SHA-256."""
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()
    )
    with whole_file(archive) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in {**contents, SUMS_FILE: sums.encode()}.items():
                info = zipfile.ZipInfo(name, _WHEN)
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, _READABLE
                packed.writestr(info, content)
        return hashlib.sha256(partial.read_bytes()).hexdigest()
