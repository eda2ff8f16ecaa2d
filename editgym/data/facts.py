"""Edit requests: one record, its rephrases and its locality prompts, from FactWorld and from
files.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from editgym.data.errors import DataError
from editgym.data.fact_formats import (
    FORMATS,
    MISSING,
    FactFormat,
    Questions,
    describe_formats,
    detect,
    lookup,
)


class Question(NamedTuple):
    """A prompt and what should follow it; None where only the model's own answer counts."""

    prompt: str
    answer: str | None = None


@dataclass(frozen=True)
class EditRequest:
    """One correction, and everything that tells whether it was made well.

    An editor may look at `subject`, `prompt` and `target`. A reward may use `rephrases` and
    `locality` as well. The rest is for metrics alone.

    Attributes:
        subject: What the fact is about; occurs in `prompt` (editors that need it skip a record
            where it does not).
        prompt: Text before the answer, without a trailing space.
        target: The new answer.
        truth: The old answer, where the data set tells it.
        rephrases: Other wordings of `prompt`.
        locality: Prompts whose answers should stay as they are.
        test_rephrases: As `rephrases`, for `generalization`.
        near: As `locality`, for `locality_near`: the same relation or the same subject.
        far: As `locality`, for `locality_far`: unrelated.
        same_subject: Prompts about other relations of the subject, for `leakage`.
        portability: What follows from the new fact: one hop, or by an alias of the subject.
        premises: Other facts that `portability` follows from as well: prompts and targets of edits.
            A stream that lacks one of them leaves `portability` out.
    """

    subject: str
    prompt: str
    target: str
    truth: str | None = None
    rephrases: tuple[str, ...] = ()
    locality: tuple[Question, ...] = ()
    test_rephrases: tuple[str, ...] = ()
    near: tuple[Question, ...] = ()
    far: tuple[Question, ...] = ()
    same_subject: tuple[str, ...] = ()
    portability: tuple[Question, ...] = ()
    premises: tuple[Question, ...] = ()


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
        """Those of all records."""
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
) -> LoadedRequests:
    """Edit requests from a JSON list of records, or from JSON Lines with a record in each line.

    Published files have no prompts for metrics alone: `test_rephrases` are the `rephrases`,
    `locality` is `near` and `far` together, and only one's own format can tell them apart. White
    space around prompts and answers is taken off, and `{}` in a prompt is filled with the subject.

    Known flaws of published data are left out and counted, whatever `on_error` says: a target that
    is the truth or among the known answers (about 2.5% of ZsRE) and, where
    `FactFormat.known_empty`, an empty field (two records of ZsRE's training set). A record of
    MQuAKE edits several facts: each becomes a request, and the multi-hop questions, which hold once
    all are edited, go to the last one, with the others as `premises`; where one fact is left out,
    so is the record.

    Args:
        path: The file.
        format: A row of `FORMATS`; by default the one whose required fields the first record has.
        on_error: Whether a malformed record is an error, or left out and counted as well.

    Raises:
        DataError: The file is missing, is no JSON, holds no records or fits no one format, or a
            record is malformed: the message names the file, the record's index from 0, and the
            field.
        ValueError: There is no such format, or `on_error` is neither of the two.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    path = Path(path).expanduser()
    records = _read(path)
    format = _detected(path, records[0]) if format is None else format
    if format not in FORMATS:
        raise ValueError(f"format: there is no {format!r}; these require\n{describe_formats()}")
    kept: list[tuple[EditRequest, ...]] = []
    skipped: Counter[str] = Counter()
    for index, record in enumerate(records):
        try:
            kept.append(_Reader(FORMATS[format]).requests(record))
        except _LeftOut as why:
            if on_error == "raise" and not why.known:
                raise DataError(
                    f"data: {path}: record {index}: {why} (read as {format!r})"
                ) from None
            skipped[why.reason] += 1
    return LoadedRequests(tuple(kept), dict(skipped), path, format)


def _read(path: Path) -> list[object]:
    if not path.is_file():
        raise DataError(f"data: no file at {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
        raise DataError(
            f"data: {path} is neither a JSON list of records nor JSON Lines with a record in each"
            f" line: {error}"
        ) from error
    if not records:
        raise DataError(f"data: {path} holds no records")
    return records


def _detected(path: Path, record: object) -> str:
    names = detect(record)
    if len(names) == 1:
        return names[0]
    problem = f"fits {' and '.join(names)}" if names else "fits no format"
    raise DataError(
        f"data: {path}: its first record {problem}; give format= one of these, which require\n"
        f"{describe_formats()}"
    )


class _LeftOut(Exception):
    """A record that is not read: `known` where that is a documented flaw of the data and no
    error.
    """

    def __init__(self, reason: str, field: str, right: str = "", *, known: bool = False) -> None:
        super().__init__(f"{field!r}: {reason}; {right}" if field else f"{reason}; {right}")
        self.reason, self.known = reason, known


class _Reader:
    """Reads records of one format."""

    def __init__(self, row: FactFormat) -> None:
        self._row = row

    def requests(self, record: object) -> tuple[EditRequest, ...]:
        """The requests of a record; raises `_LeftOut`."""
        if not isinstance(record, Mapping):
            raise _LeftOut("wrong type", "", f"a record must be an object, got {_kind(record)}")
        views = list(self._row.views(record))
        if not views:
            raise _LeftOut(
                "wrong type", str(self._row.several), "must be a list of one or more facts"
            )
        *others, last = (self._request(view) for view in views)
        premises = tuple(Question(request.prompt, request.target) for request in others)
        return *others, replace(last, portability=self._portability(views[-1]), premises=premises)

    def _request(self, view: Mapping[str, Any]) -> EditRequest:
        row = self._row
        for path in row.required:
            if lookup(view, path) is MISSING:
                raise _LeftOut(
                    "missing field", path, f"the format requires {', '.join(row.required)}"
                )
        subject, target = self._text(view, row.subject), self._text(view, row.target)
        near, far = self._questions(view, row.near), self._questions(view, row.far)
        rephrases = self._rephrases(view, row.rephrases, subject)
        return EditRequest(
            subject=subject,
            prompt=self._text(view, row.prompt).replace("{}", subject),
            target=target,
            truth=self._truth(view, target),
            rephrases=rephrases,
            locality=self._questions(view, row.locality) or near + far,
            test_rephrases=self._rephrases(view, row.test_rephrases, subject) or rephrases,
            near=near,
            far=far,
            same_subject=tuple(
                question.prompt for question in self._questions(view, row.same_subject)
            ),
        )

    def _empty(self, path: str) -> _LeftOut:
        return _LeftOut("empty field", path, "must not be empty", known=self._row.known_empty)

    def _text(self, view: Mapping[str, Any], path: str) -> str:
        value = lookup(view, path)
        if value is MISSING:
            raise _LeftOut("missing field", path, "must be a string")
        if value is not None and not isinstance(value, str):
            raise _LeftOut("wrong type", path, f"must be a string, got {_kind(value)}")
        if value is None or not value.strip():
            raise self._empty(path)
        return value.strip()

    def _truth(self, view: Mapping[str, Any], target: str) -> str | None:
        path = self._row.truth
        value = MISSING if path is None else lookup(view, path)
        if path is None or value is MISSING:
            return None
        answers = [answer for answer in _leaves(value, path) if answer]
        if _same(target) in map(_same, answers):
            reason = (
                "target among known answers" if isinstance(value, list) else "target equal to truth"
            )
            raise _LeftOut(reason, self._row.target, known=True)
        return answers[0] if answers else None

    def _rephrases(
        self, view: Mapping[str, Any], paths: tuple[str, ...], subject: str
    ) -> tuple[str, ...]:
        found: list[str] = []
        for path in paths:
            texts = [text for text in _leaves(lookup(view, path), path) if text]
            if not texts and path in self._row.required:
                raise self._empty(path)
            found += texts
        return tuple(text.replace("{}", subject) for text in found)

    def _portability(self, view: Mapping[str, Any]) -> tuple[Question, ...]:
        questions = self._questions(view, self._row.portability)
        answered = tuple(question for question in questions if question.answer is not None)
        if len(answered) < len(questions) and not self._row.known_empty:
            raise _LeftOut("missing field", "portability", "every question must have an answer")
        return answered

    def _questions(self, view: Mapping[str, Any], where: Questions | None) -> tuple[Question, ...]:
        if where is None:
            return ()
        found: list[Question] = []
        for node in _nodes(view, where.at):
            if isinstance(node, str):
                found.append(Question(node.strip()))
            elif isinstance(node, Mapping):
                found += _asked(node, where)
            else:
                raise _LeftOut(
                    "wrong type",
                    where.at,
                    f"a question must be an object or a string, got {_kind(node)}",
                )
        return tuple(question for question in found if question.prompt)


def _nodes(view: Mapping[str, Any], at: str) -> list[Any]:
    """The questions at a path, however they are packed."""
    if not at:
        return [view]
    value = lookup(view, at.removesuffix(".*"))
    groups = list(value.values()) if at.endswith(".*") and isinstance(value, Mapping) else [value]
    return [
        node
        for group in groups
        if group is not MISSING and group is not None
        for node in (group if isinstance(group, list) else [group])
    ]


def _asked(node: Mapping[str, Any], where: Questions) -> Iterator[Question]:
    """The questions of one object: a prompt, or several with as many answers or one for all."""
    field = f"{where.at}.{where.prompt}".lstrip(".")
    value = lookup(node, where.prompt)
    if value is MISSING and where.at:
        raise _LeftOut("missing field", field, "every question must have a prompt")
    prompts, answers = _leaves(value, field), lookup(node, where.answer)
    answer_field = f"{where.at}.{where.answer}".lstrip(".")
    if len(prompts) > 1 and isinstance(answers, list):
        if len(answers) != len(prompts):
            raise _LeftOut(
                "wrong type",
                answer_field,
                f"must hold as many answers as prompts ({len(prompts)}), got {len(answers)}",
            )
    else:
        answers = [answers] * len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        # A nested list holds other names of the same answer: the first one is asked for.
        yield Question(prompt, next(filter(None, _leaves(answer, answer_field)), None))


def _leaves(value: Any, field: str) -> list[str]:
    """The strings in nested lists, white space around them taken off; none where there is no
    value.
    """
    if value is MISSING or value is None:
        return []
    if isinstance(value, list):
        return [text for one in value for text in _leaves(one, field)]
    if not isinstance(value, str):
        raise _LeftOut(
            "wrong type", field, f"must be a string or a list of strings, got {_kind(value)}"
        )
    return [value.strip()]


def _same(answer: str) -> str:
    return " ".join(answer.casefold().split())


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        type(value), f"{type(value).__name__} {value!r:.40}"
    )
