"""What a loader of one's own returned: texts, labels and identities, as the tasks take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from numbers import Real
from typing import Any, NamedTuple, TypeVar

import numpy as np

from editgym.data.errors import DataError
from editgym.data.text import Comments

C = TypeVar("C", bound=Comments)


def checked_columns(found: C, name: str) -> C:
    """What a loader returned, with labels as integers and columns as tuples.

    Raises:
        DataError: Its columns differ in length, or hold anything but texts, the labels 0 and 1, and
            identities; the message names the row.
    """
    for field in fields(found):
        if len(getattr(found, field.name)) != len(found.texts):
            raise DataError(
                f"{name} returned {len(found.texts)} texts and"
                f" {len(getattr(found, field.name))} {field.name}"
            )
    columns: dict[str, list[Any]] = {
        field.name: [] for field in fields(found) if field.name in _KINDS
    }
    for row, values in enumerate(zip(*(getattr(found, column) for column in columns), strict=True)):
        for column, value in zip(columns, values, strict=True):
            normal = _KINDS[column].normal(value)
            if normal is None:
                raise DataError(
                    f"{name}, row {row + 1}, {column}: expected {_KINDS[column].expected}, got"
                    f" {value!r}"
                )
            columns[column].append(normal)
    return replace(found, **{column: tuple(own) for column, own in columns.items()})


def _label(value: object) -> int | None:
    """The label that a number or a truth value of any type is; None for any other value."""
    known = isinstance(value, Real | np.bool_) and value in (0, 1)
    return int(value) if known else None  # type: ignore[call-overload]


def _identity(value: object) -> str | tuple[str, ...] | None:
    """An identity, or several as a tuple; None for what is none."""
    if not isinstance(value, tuple | list | set | frozenset):
        return _text(value)
    if not all(isinstance(one, str) for one in value):
        return None
    return tuple(sorted(value) if isinstance(value, set | frozenset) else value)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str) else None


class _Kind(NamedTuple):
    """What the values of a column are: as they are kept, None for others, and in words."""

    normal: Callable[[object], Any]
    expected: str


_KINDS: Mapping[str, _Kind] = {
    "texts": _Kind(_text, "a text"),
    "labels": _Kind(_label, "the label 0 or 1"),
    "identities": _Kind(_identity, "an identity, or a tuple of them, which is empty for none"),
    "templates": _Kind(_text, "a template, a text; what is like no other text is its own"),
    "polar_words": _Kind(
        lambda value: "" if value is None else _text(value), "a word, or None where none is known"
    ),
}
