"""Edit requests from files: a list of records is read by one of the known formats."""

from __future__ import annotations

import difflib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from editgym.data.edit_request import EditRequest, Question
from editgym.data.errors import DataError
from editgym.data.fact_formats import (
    FORMATS,
    MISSING,
    FactFormat,
    describe_formats,
    detect,
    lookup,
)
from editgym.data.fact_reader import LeftOut, RecordReader
from editgym.imports import imported_as, is_import_path

# What other tools write where the subject belongs.
_PLACEHOLDER = re.compile(r"\{[A-Za-z_ ]+\}|\[(?:X|Y|MASK|SUBJECT|subject|Subject)\]|<subject>")


@dataclass(frozen=True)
class LoadedRequests:
    """The edit requests of a file, and what was left out.

    Attributes:
        records: In the file's order; each is one request, or several whose facts are edited
            together.
        skipped: How many records were left out, by reason.
        path: The file.
        format: The row of `FORMATS` that it was read by.
    """

    records: tuple[tuple[EditRequest, ...], ...]
    skipped: Mapping[str, int]
    path: Path
    format: str

    @cached_property
    def requests(self) -> tuple[EditRequest, ...]:
        """The requests of all records."""
        return tuple(request for record in self.records for request in record)

    def describe(self) -> str:
        """One line: `zsre_train_1k.json: 977 requests; skipped 21 (target among known answers), 2
        (empty field)`.
        """
        counts = sorted(self.skipped.items(), key=lambda item: (-item[1], item[0]))
        skipped = ", ".join(f"{count} ({reason})" for reason, count in counts)
        return f"{self.path.name}: {len(self.requests)} requests" + (
            f"; skipped {skipped}" if skipped else ""
        )


def load_requests(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    on_error: Literal["raise", "skip"] = "raise",
    argument: str = "data",
) -> LoadedRequests:
    """Edit requests from a JSON list of records, or from JSON Lines with a record in each line.

    Published files have no prompts for metrics alone: `test_rephrases` are the `rephrases`,
    `locality` is `near` and `far` together, and only one's own format can tell them apart. White
    space around subjects and answers is taken off, that around a prompt belongs to it, and `{}` in
    a prompt is filled with the subject.

    Known flaws of published data are left out and counted, whatever `on_error` says: a target that
    is the truth or among the known answers (about 2.5% of ZsRE) and, where
    `FactFormat.known_empty`, an empty field (two records of ZsRE's training set). A record of
    MQuAKE edits several facts: each becomes a request, and the multi-hop questions, which hold once
    all are edited, go to the last one, with the others as `premises`; where one fact is left out,
    so is the record.

    Args:
        path: The file.
        format: A row of `FORMATS`, or the import path of a `FactFormat` of one's own,
            `package.module:FORMAT`; by default the row whose required fields the first record has.
        on_error: Whether a malformed record is an error, or left out and counted as well.
        argument: What named the file, for messages.

    Raises:
        DataError: The file is missing, is no JSON, holds no records or fits no one format, or a
            record is malformed: the message names the argument, the file, the record's index from
            0, and the field.
        ValueError: There is no such format, or `on_error` is neither of the two.

    Warns:
        UserWarning: Prompts have placeholders other than `{}` left in them, such as `{subject}` or
            `[X]`.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    path = Path(path).expanduser()
    named = f"{argument}: {path}"
    records = _read(path, argument)
    format = _detected(named, records[0]) if format is None else format
    row = _format(format)
    kept: list[tuple[EditRequest, ...]] = []
    skipped: Counter[str] = Counter()
    for index, record in enumerate(records):
        try:
            kept.append(RecordReader(row).requests(record))
        except LeftOut as why:
            if on_error == "raise" and not why.known:
                raise DataError(f"{named}: record {index}: {why} (read as {format!r})") from None
            skipped[why.reason] += 1
    _warn_of_placeholders(named, [one for record in kept for one in record])
    if row is FORMATS["own"]:
        _warn_of_misspelt(named, records)
        _warn_of_prompts(named, [one for record in kept for one in record])
    return LoadedRequests(tuple(kept), dict(skipped), path, format)


def _warn_of_placeholders(named: str, requests: Sequence[EditRequest]) -> None:
    """Warn where a prompt still has a placeholder for its subject: it would be edited as it
    stands.
    """
    found = [
        (request, left[0])
        for request in requests
        for text in (request.prompt, *request.rephrases, *request.test_rephrases)
        if (left := _PLACEHOLDER.search(text)) and left[0] not in request.subject
    ]
    if found:
        request, placeholder = found[0]
        warnings.warn(
            f"{named}: {len(found)} prompts have a placeholder left in them, such as"
            f" {placeholder} in {request.prompt!r} (subject {request.subject!r}), and are edited as"
            " they stand: only {} is filled with the subject; write {}, or the subject itself",
            stacklevel=3,
        )


def _warn_of_misspelt(named: str, records: Sequence[object]) -> None:
    """Warn of fields of one's own records that are not read, and that come near to one that is."""
    known = {one.name for one in fields(EditRequest)}
    unread = {name for record in records if isinstance(record, Mapping) for name in record} - known
    for name in sorted(unread):
        if near := difflib.get_close_matches(name, known, n=1, cutoff=0.8):
            warnings.warn(
                f"{named}: records have {name!r}, which is not read; {near[0]!r} is", stacklevel=3
            )


def _warn_of_prompts(named: str, requests: Sequence[EditRequest]) -> None:
    """Warn of prompts that some editors leave out, or that nobody asks as they stand."""
    for what, found in (
        (
            "do not name their subject (as it is written, capitals too): editors that write at the"
            " subject, as rome and memit do, leave them out",
            [one for one in requests if one.subject not in one.prompt],
        ),
        (
            "end in white space, which belongs to them: asked without it they are other prompts",
            [one for one in requests if one.prompt != one.prompt.rstrip()],
        ),
    ):
        if found:
            warnings.warn(
                f"{named}: {len(found)} prompts, such as {found[0].prompt!r} (subject"
                f" {found[0].subject!r}), {what}",
                stacklevel=3,
            )


def _format(name: str) -> FactFormat:
    if is_import_path(name):
        return imported_as(FactFormat, name, "format")
    if name not in FORMATS:
        raise ValueError(f"format: there is no {name!r}; these require\n{describe_formats()}")
    return FORMATS[name]


def _read(path: Path, argument: str) -> list[object]:
    if not path.is_file():
        raise DataError(f"{argument}: no file at {path}")
    at = ""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = []
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    at = f"line {number} of the file: "
                    records.append(json.loads(line))
        _check_text(text, records)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError and JSONDecodeError
        raise DataError(
            f"{argument}: {path} is neither a JSON list of records nor JSON Lines with a record in"
            f" each line: {at}{error}"
        ) from error
    if not records:
        raise DataError(f"{argument}: {path} holds no records")
    return records


def _nearest(record: object) -> str:
    """The format of which a record has the largest part, and what it lacks for it."""
    shares = {
        name: sum(lookup(record, path) is not MISSING for path in row.required) / len(row.required)
        for name, row in FORMATS.items()
    }
    best = max(shares, key=lambda name: shares[name])
    if not shares[best]:
        return ""
    lacks = [path for path in FORMATS[best].required if lookup(record, path) is MISSING]
    return f" (of {best}, the nearest, it lacks {', '.join(map(repr, lacks))})"


def _check_text(text: str, records: Sequence[object]) -> None:
    """Raise `ValueError` where a text is none: JSON can write half of a character."""
    if "\\ud" in text.lower():
        json.dumps(records, ensure_ascii=False).encode()


def _detected(named: str, record: object) -> str:
    names = detect(record)
    if len(names) == 1:
        return names[0]
    problem = f"fits {' and '.join(names)}" if names else f"fits no format{_nearest(record)}"
    raise DataError(
        f"{named}: its first record {problem}; give format= one of these, which require\n"
        f"{describe_formats()}"
    )


__all__ = ["EditRequest", "LoadedRequests", "Question", "load_requests"]
