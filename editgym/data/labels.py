"""What the label of a text means: toxic, not toxic, or that nobody labelled it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from editgym.checks import Check
from editgym.data.errors import DataError

UNLABELLED = -1.0
# Words of published files and of common exports, without case, spaces and punctuation.
_TOXIC = ("true", "yes", "bad", "toxic", "hate", "hateful", "hatespeech", "offensive", "abusive")
_OTHER = ("false", "no", "notbad", "normal", "neutral", "neither", "clean", "benign")
_WORDS = (
    dict.fromkeys(_OTHER, 0)
    | {f"{no}{word}": 0 for no in ("no", "non", "not") for word in _TOXIC[3:]}
    | dict.fromkeys(_TOXIC, 1)
)
_NOT_LETTERS = re.compile(r"[\W_]+")
_SHOWN = 10  # values in a message


def _is_value(value: object) -> bool:
    return isinstance(value, str | int | float)


TOXIC_VALUES = Check(
    lambda v: v is None or (isinstance(v, list | tuple) and bool(v) and all(map(_is_value, v))),
    "a list of label values (texts, numbers, true or false), or None",
)


def at_least_half(value: float) -> bool:
    """Whether a share of raters, or a 0 or 1, means toxic: from one half on (Borkan et al. 2019).

    Raises:
        ValueError: It is not from 0 to 1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"expected a number from 0 to 1, got {value:g}")
    return value >= 0.5


class LabelReader:
    """The labels of one column, read one by one; what it has seen is in its messages.

    Args:
        column: The column's name.
        is_toxic: Whether a number means toxic.
        toxic_values: The values that mean toxic, where all others do not; None leaves it to
            `is_toxic` and the known words. Case does not count, and 1 is "1" and 1.0.
        unlabelled: The number of texts that nobody labelled; None where there is none.
    """

    def __init__(
        self,
        column: str,
        is_toxic: Callable[[float], bool] = at_least_half,
        toxic_values: Sequence[str | float | bool] | None = None,
        unlabelled: float | None = UNLABELLED,
    ) -> None:
        TOXIC_VALUES("toxic_values", toxic_values)
        self._column, self._is_toxic, self._unlabelled = column, is_toxic, unlabelled
        self._given = None if toxic_values is None else {_key(one): one for one in toxic_values}
        self._seen: Counter[str | float] = Counter()
        self._labels: set[int] = set()

    def __call__(self, value: Any, where: str) -> int | None:
        """1 for toxic, 0 for not, None for a text without a label.

        Args:
            value: The column's value.
            where: File and row, for messages.

        Raises:
            DataError: The value is missing, or says none of the three.
        """
        key = _key(value)
        self._seen[key] += 1
        if key == "":
            raise DataError(
                f"{where}, column {self._column}: the label is missing; leave the row out, or write"
                " -1 for a text without a label"
            )
        try:
            label = self._label(key, value)
        except ValueError as error:
            raise DataError(
                f"{where}, column {self._column}: {error}; toxic_values=[…] says which values mean"
                " toxic"
            ) from error
        if label is not None:
            self._labels.add(label)
        return label

    def check(self, path: object) -> None:
        """Check, after the last row of the file at `path`, that labels of both kinds were there.

        Raises:
            DataError: They were not, or one of `toxic_values` never came.
        """
        values = ", ".join(
            f"{value if isinstance(value, str) else format(value, 'g')} ({count})"
            for value, count in self._seen.most_common(_SHOWN)
        )
        seen = f"the values of column {self._column} are {values or 'none'}"
        for key, given in (self._given or {}).items():
            if key not in self._seen:
                raise DataError(f"toxic_values: {path} has no label {given!r}; {seen}")
        if len(self._labels) < 2:
            left_out = self._seen[self._unlabelled] if self._unlabelled is not None else 0
            raise DataError(
                f"data: {path}: every text has the same label; toxic and other comments are needed;"
                f" {seen}"
                + (f", of which {self._unlabelled:g} stands for no label" if left_out else "")
            )

    def _label(self, key: str | float, value: Any) -> int | None:
        if self._given is not None and key in self._given:
            return 1
        if self._unlabelled is not None and key == self._unlabelled:
            return None
        if self._given is not None:
            return 0
        if isinstance(key, float):
            if not math.isfinite(key):
                raise ValueError(f"expected a number, got {value!r}")
            return int(self._is_toxic(key))
        word = _WORDS.get(_NOT_LETTERS.sub("", key))
        if word is None:
            raise ValueError(
                f"expected a number, true or false, or a word such as toxic or not toxic, got"
                f" {value!r}"
            )
        return word


def _key(value: Any) -> str | float:
    """A value as it is compared: a number, or a text without case; empty for a missing one."""
    if value is None:
        return ""
    text = str(value).strip().casefold()
    try:
        return float(text)
    except ValueError:
        return text
