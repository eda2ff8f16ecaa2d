"""Marks of verification: somebody else ran a row's cell again, and got the same.

They lie beside the rows in `verified.jsonl`, one JSON object a line, never within rows: a row says
what its submitter measured, a mark what somebody else did. A mark holds the whole row of the new
run, so that everybody sees on what machine, with which versions and when it was reproduced, and can
compare the two. It names the SHA-256 of the row that it is of, and is void when that row changes.

A mark is no signature. Whoever writes one by hand, with a made-up run, is found out by running the
cell, not by reading the file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.results.agreement import rerun_differences
from benchmarks.results.cell import Row, canonical_json
from benchmarks.results.disclosure import submitter_of
from benchmarks.results.files import append_row, parse_row
from benchmarks.results.form import is_hash, short
from benchmarks.results.integrity import row_problem
from benchmarks.results.lines import ResultsError, json_kind, json_of, lines_of

MARKS_FILE = "verified.jsonl"
_HASH = "mark_sha256"
_RIGHT = (
    "a mark is an object on one line with cell, row_sha256, by, when, rerun and mark_sha256, as"
    " validate --rerun K --verifier WHO writes it"
)


@dataclass(frozen=True)
class Mark:
    """One row, reproduced by somebody else.

    Attributes:
        cell: The row's cell.
        row_sha256: SHA-256 of the row that was reproduced.
        by: Who ran it again: a name, and how to ask.
        when: The time, ISO 8601 in UTC.
        rerun: The row of the new run: its versions, hardware, times and results.
    """

    cell: str
    row_sha256: str
    by: str
    when: str
    rerun: Row

    @classmethod
    def of(cls, row: Row, rerun: Row, by: str) -> Mark:
        """The mark of a row that was reproduced just now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(row["cell"], row["row_sha256"], by, now, rerun)


@dataclass(frozen=True)
class Marks:
    """The marks that lie in a folder.

    Attributes:
        of: By the SHA-256 of a row, its marks.
        refused: What is wrong with the others, one line for each.
    """

    of: Mapping[str, Sequence[Mark]]
    refused: tuple[str, ...]


def read_marks(folder: Path, rows: Sequence[Row]) -> Marks:
    """The marks in `folder` of the rows that lie there; no file is no marks.

    A mark is refused that is no mark, was changed after it was written, is of a row that was
    changed or replaced after it, holds no run that reproduces the row, or is the submitter's own.
    """
    by_cell = {row["cell"]: row for row in rows}
    submitter = submitter_of(folder)
    found: dict[str, list[Mark]] = {}
    refused = []
    for where, line in lines_of(folder / MARKS_FILE):
        try:
            mark = _parse(line)
            _check(mark, by_cell.get(mark.cell), submitter)
        except ValueError as error:
            refused.append(f"{where}: {error}")
        else:
            found.setdefault(mark.row_sha256, []).append(mark)
    return Marks(found, tuple(refused))


def checked_marks(folder: Path, rows: Sequence[Row]) -> list[Mark]:
    """The marks in `folder`, where all of them hold.

    Raises:
        ResultsError: One of them is refused.
    """
    marks = read_marks(folder, rows)
    if marks.refused:
        more = f", and {len(marks.refused) - 1} more" if len(marks.refused) > 1 else ""
        raise ResultsError(f"{marks.refused[0]}{more}. Delete the line; nothing was written")
    return [mark for own in marks.of.values() for mark in own]


def add_marks(folder: Path, marks: Sequence[Mark]) -> None:
    """Append those marks that the folder does not hold yet.

    Raises:
        OSError: The file cannot be written.
    """
    known = {line for _, line in lines_of(folder / MARKS_FILE)}
    for mark in marks:
        content = {**vars(mark), _HASH: _hash(mark)}
        if json.dumps(content, allow_nan=False, ensure_ascii=False).encode() not in known:
            append_row(folder / MARKS_FILE, content)


def check_verifier(folder: Path, by: str) -> None:
    """Refuse who cannot mark the rows in `folder`.

    Raises:
        ValueError: There is no name, or it is the submitter's.
    """
    if not _name(by):
        raise ValueError(
            f"verifier must be a name, and how to ask: 'Ada Lovelace <ada@example.org>', got {by!r}"
        )
    if _is_submitter(by, submitter_of(folder)):
        raise ValueError(
            f"verifier: {by!r} submitted these rows (disclosure.toml), and only somebody else can"
            " mark them as verified"
        )


def _check(mark: Mark, row: Row | None, submitter: str | None) -> None:
    """Raise `ValueError` where a mark does not hold."""
    if row is None:
        raise ValueError(f"it is of the cell {mark.cell}, which has no row here")
    if mark.row_sha256 != row["row_sha256"] or row_problem(row) is not None:
        raise ValueError(
            f"the row of the cell {mark.cell} was changed or measured anew after it was marked: its"
            " SHA-256 differs"
        )
    if (problem := row_problem(mark.rerun)) is not None:
        raise ValueError(f"of the run that it holds: {problem}")
    if mark.rerun["cell"] != mark.cell:
        raise ValueError("the run that it holds is of another cell")
    if mark.rerun["row_sha256"] == mark.row_sha256:
        raise ValueError("the run that it holds is the row itself, not another run of its cell")
    _check_run(mark.rerun.get("rescored_from"), row.get("rescored_from"))
    if differing := rerun_differences(row, mark.rerun):
        raise ValueError(f"the run that it holds does not reproduce the row: {differing[0]}")
    if _is_submitter(mark.by, submitter):
        raise ValueError(f"it is by {mark.by!r}, who submitted the rows")


def _check_run(rerun: Mapping[str, Any] | None, row: Mapping[str, Any] | None) -> None:
    """Refuse a run whose edit was not made for it. Of a row that was scored again the run is of the
    row that its edit is of, and what came of it was scored again as well.
    """
    if rerun is None or row is None:
        if rerun is not None:
            raise ValueError("the run that it holds was no run: its journal was scored again")
        return
    if rerun.get("cell") != row.get("cell"):
        raise ValueError("the run that it holds is scored again from another cell than the row")
    if rerun.get("row_sha256") == row.get("row_sha256"):
        raise ValueError("the run that it holds was no run: the row's edit was scored again")


def _is_submitter(by: str, submitter: str | None) -> bool:
    if submitter is None:
        return False
    (one, alone), (other, other_alone) = ((_name(t), _without_place(t)) for t in (by, submitter))
    same = alone == other_alone and " " in alone  # 'Lovelace, Ada' is not 'Lovelace, Byron'
    return same or one in (other, other_alone) or other == alone


def _name(text: str) -> str:
    """A name without the address behind it, as it compares."""
    return " ".join(text.partition("<")[0].casefold().split())


def _without_place(text: str) -> str:
    """A name without the affiliation behind it, which the disclosure asks for."""
    return re.split(r"[,;(]", _name(text))[0].strip()


def _parse(line: bytes) -> Mark:
    """A line as a mark; raises `ValueError` where it is none, with what would be one."""
    try:
        content = json_of(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error}); {_RIGHT}") from error
    if not isinstance(content, dict):
        raise ValueError(f"it is {json_kind(content)}; {_RIGHT}")
    if missing := [name for name in (*_FIELDS, _HASH) if name not in content]:
        raise ValueError(f"it lacks {', '.join(missing)}; {_RIGHT}")
    for name, (is_right, right) in _FIELDS.items():
        if not is_right(content[name]):
            raise ValueError(f"{name} is {short(content[name])}, and must be {right}")
    parse_row(
        canonical_json(content["rerun"]).encode(),
        "rerun, the run that it holds,",
        "run the row's cell again, by validate --rerun K --verifier WHO",
    )
    mark = Mark(**{name: content[name] for name in _FIELDS})
    if content[_HASH] != _hash(mark):
        raise ValueError(
            f"the mark is not the one that was written: its SHA-256, {_HASH}, differs; put back the"
            " line as it was, or delete it"
        )
    return mark


def _is_time(value: object) -> bool:
    """Whether a value is a time as `Mark.of` writes it: of any other nobody knows when it was."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).utcoffset() == timedelta(0)
    except ValueError:
        return False


def _hash(mark: Mark) -> str:
    return hashlib.sha256(canonical_json(vars(mark)).encode()).hexdigest()


_FIELDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "cell": (is_hash, "the name of a cell, 64 hexadecimal digits"),
    "row_sha256": (is_hash, "the row_sha256 of a row, 64 hexadecimal digits"),
    "by": (
        lambda value: isinstance(value, str) and bool(_name(value)),
        "a name, and how to ask: 'Ada Lovelace <ada@example.org>'",
    ),
    "when": (_is_time, "a time in UTC, such as 2026-01-31T09:30:00+00:00"),
    "rerun": (lambda value: isinstance(value, dict), "an object, the row of the new run"),
}
