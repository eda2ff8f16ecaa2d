"""Records of a format become edit requests, or are left out with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from editgym.data.edit_request import EditRequest, Question
from editgym.data.fact_formats import MISSING, FactFormat, Questions, lookup


class LeftOut(Exception):
    """A record that is not read: `known` where that is a documented flaw of the data and no
    error.
    """

    def __init__(self, reason: str, field: str, right: str = "", *, known: bool = False) -> None:
        super().__init__(f"{field!r}: {reason}; {right}" if field else f"{reason}; {right}")
        self.reason, self.known = reason, known


class RecordReader:
    """Reads records of one format."""

    def __init__(self, row: FactFormat) -> None:
        self._row = row
        self._aliases: list[tuple[str, ...]] = []

    def requests(self, record: object) -> tuple[EditRequest, ...]:
        """The requests of a record.

        Raises:
            LeftOut: The record is malformed, or has a known flaw of published data.
        """
        if not isinstance(record, Mapping):
            raise LeftOut("wrong type", "", f"a record must be an object, got {_kind(record)}")
        views = list(self._row.views(record))
        if not views:
            raise LeftOut(
                "wrong type", str(self._row.several), "must be a list of one or more facts"
            )
        *others, last = (self._request(view) for view in views)
        premises = tuple(Question(request.prompt, request.target) for request in others)
        premises += self._answered(views[-1], self._row.premises, last.subject, "premises")
        portability = self._answered(views[-1], self._row.portability, last.subject, "portability")
        aliases = tuple(self._aliases)
        return *others, replace(last, portability=portability, premises=premises, aliases=aliases)

    def _request(self, view: Mapping[str, Any]) -> EditRequest:
        row, self._aliases = self._row, []
        for path in row.required:
            if lookup(view, path) is MISSING:
                raise LeftOut(
                    "missing field", path, f"the format requires {', '.join(row.required)}"
                )
        subject, target = self._text(view, row.subject), self._text(view, row.target)
        self._name(
            [target, *(name for path in row.aliases for name in _leaves(lookup(view, path), path))]
        )
        near = self._questions(view, row.near, subject)
        far = self._questions(view, row.far, subject)
        rephrases = self._rephrases(view, row.rephrases, subject)
        return EditRequest(
            subject=subject,
            prompt=self._text(view, row.prompt, strip=False).replace("{}", subject),
            target=target,
            truth=self._truth(view, target),
            rephrases=rephrases,
            locality=self._questions(view, row.locality, subject) or near + far,
            test_rephrases=self._rephrases(view, row.test_rephrases, subject) or rephrases,
            near=near,
            far=far,
            same_subject=tuple(
                question.prompt for question in self._questions(view, row.same_subject, subject)
            ),
            aliases=tuple(self._aliases),
        )

    def _name(self, names: Sequence[str]) -> None:
        """Keep several names of one answer."""
        group = tuple(dict.fromkeys(name for name in names if name))
        if len(group) > 1 and group not in self._aliases:
            self._aliases.append(group)

    def _empty(self, path: str) -> LeftOut:
        return LeftOut("empty field", path, "must not be empty", known=self._row.known_empty)

    def _text(self, view: Mapping[str, Any], path: str, strip: bool = True) -> str:
        value = lookup(view, path)
        if value is MISSING:
            raise LeftOut("missing field", path, "must be a string")
        if value is not None and not isinstance(value, str):
            raise LeftOut("wrong type", path, f"must be a string, got {_kind(value)}")
        if value is None or not value.strip():
            raise self._empty(path)
        return value.strip() if strip else value

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
            raise LeftOut(reason, self._row.target, known=True)
        self._name(answers)
        return answers[0] if answers else None

    def _rephrases(
        self, view: Mapping[str, Any], paths: tuple[str, ...], subject: str
    ) -> tuple[str, ...]:
        found: list[str] = []
        for path in paths:
            texts = [text for text in _leaves(lookup(view, path), path, False) if text.strip()]
            if not texts and path in self._row.required:
                raise self._empty(path)
            found += texts
        return tuple(text.replace("{}", subject) for text in found)

    def _answered(
        self, view: Mapping[str, Any], where: Questions | None, subject: str, field: str
    ) -> tuple[Question, ...]:
        questions = self._questions(view, where, subject)
        answered = tuple(question for question in questions if question.answer is not None)
        if len(answered) < len(questions) and not self._row.known_empty:
            raise LeftOut("missing field", field, "every question must have an answer")
        return answered

    def _questions(
        self, view: Mapping[str, Any], where: Questions | None, subject: str
    ) -> tuple[Question, ...]:
        """The questions at a place, `{}` in their prompts filled with the subject."""
        if where is None:
            return ()
        found: list[Question] = []
        for node in _nodes(view, where.at):
            if isinstance(node, str):
                found.append(Question(node))
            elif isinstance(node, Mapping):
                for prompt, names in _asked(node, where):
                    self._name(names)
                    found.append(Question(prompt, next(iter(names), None)))
            else:
                raise LeftOut(
                    "wrong type",
                    where.at,
                    f"a question must be an object or a string, got {_kind(node)}",
                )
        return tuple(
            question._replace(prompt=question.prompt.replace("{}", subject))
            for question in found
            if question.prompt.strip()
        )


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


def _asked(node: Mapping[str, Any], where: Questions) -> Iterator[tuple[str, list[str]]]:
    """The questions of one object, a prompt or several with as many answers or one for all: each
    prompt with all names of its answer.
    """
    field = f"{where.at}.{where.prompt}".lstrip(".")
    value = lookup(node, where.prompt)
    if value is MISSING and where.at:
        raise LeftOut("missing field", field, "every question must have a prompt")
    prompts, answers = _leaves(value, field, strip=False), lookup(node, where.answer)
    answer_field = f"{where.at}.{where.answer}".lstrip(".")
    if len(prompts) > 1 and isinstance(answers, list):
        if len(answers) != len(prompts):
            raise LeftOut(
                "wrong type",
                answer_field,
                f"must hold as many answers as prompts ({len(prompts)}), got {len(answers)}",
            )
    else:
        answers = [answers] * len(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        # A nested list holds other names of the same answer: each is as good as the first.
        yield prompt, [name for name in _leaves(answer, answer_field) if name]


def _leaves(value: Any, field: str, strip: bool = True) -> list[str]:
    """The strings in nested lists; none where there is no value. White space around answers is
    taken off, a prompt stays as it is.
    """
    if value is MISSING or value is None:
        return []
    if isinstance(value, list):
        return [text for one in value for text in _leaves(one, field, strip)]
    if not isinstance(value, str):
        raise LeftOut(
            "wrong type", field, f"must be a string or a list of strings, got {_kind(value)}"
        )
    return [value.strip() if strip else value]


def _same(answer: str) -> str:
    return " ".join(answer.casefold().split())


def _kind(value: object) -> str:
    return {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}.get(
        type(value), f"{type(value).__name__} {value!r:.40}"
    )
