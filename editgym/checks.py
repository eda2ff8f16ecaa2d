"""Checks of values that a user hands in: an error names the argument, its value and what is right.

The checks stand on the ground floor: data, models, weights, tasks, environments, agents and
benchmarks use them alike.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeGuard


def require(valid: bool, name: str, value: object, expected: str) -> None:
    """Raise the error of an argument that is not as expected.

    Args:
        valid: Whether it is.
        name: The argument's name.
        value: Its value.
        expected: What would be right, after the words "must be".

    Raises:
        ValueError: `valid` is False.
    """
    if not valid:
        raise ValueError(f"{name} must be {expected}, got {shown(value)}")


def shown(value: object) -> str:
    """A value as it stands in an error message."""
    try:
        return repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return f"a value of type {type(value).__name__} that is too long to be written"


def require_known(problem: str, given: Mapping[str, object], known: Collection[str]) -> None:
    """Raise the error of names that nobody takes.

    Args:
        problem: What an error begins with, such as "ppo takes no setting".
        given: What was given, by name.
        known: The names that would be right.

    Raises:
        ValueError: Names are not among them; the message has their values and the nearest names.
    """
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    raise ValueError(
        f"{problem} {', '.join(f'{name}={shown(given[name])}' for name in unknown)}"
        f"{meant(unknown, known)}; it takes {', '.join(known) or 'none'}"
    )


def meant(unknown: Collection[str], known: Collection[str]) -> str:
    """The known names that unknown ones come near to, as ` (did you mean a or b?)`; empty where
    there are none.
    """
    near = [found for name in unknown for found in difflib.get_close_matches(name, known, n=1)]
    return f" (did you mean {' or '.join(dict.fromkeys(near))}?)" if near else ""


def is_whole(value: object) -> bool:
    """Whether `value` is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def as_whole(value: object) -> int | None:
    """The integer that a number of any type is, such as 1.0 or one of NumPy's; None where it is
    none, as True and False are none.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return int(number) if number.is_integer() else None


def is_finite(value: object) -> bool:
    """Whether `value` is a number that is neither nan nor infinite, and not beyond all floats."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float comes near to
        return False


@dataclass(frozen=True)
class Check:
    """What one argument has to be; calling it with the argument's name and value checks that.

    Attributes:
        valid: Whether a value is as it has to be.
        expected: What would be right, after the words "must be".
    """

    valid: Callable[[Any], bool]
    expected: str

    def __call__(self, name: str, value: object) -> None:
        """Raise the ValueError of an argument that is not as expected."""
        require(self.valid(value), name, value, self.expected)


def whole(least: int) -> Check:
    """The check of whole numbers from `least` on."""
    return Check(lambda v: is_whole(v) and v >= least, f"{least} or more, a whole number")


def at_least(least: float) -> Check:
    """The check of finite numbers from `least` on."""
    return Check(lambda v: is_finite(v) and v >= least, f"{least:g} or more and finite")


def above(limit: float) -> Check:
    """The check of finite numbers greater than `limit`."""
    return Check(lambda v: is_finite(v) and v > limit, f"greater than {limit:g} and finite")


def within(least: float, most: float) -> Check:
    """The check of numbers from `least` to `most`, both included."""
    return Check(lambda v: is_finite(v) and least <= v <= most, f"from {least:g} to {most:g}")


def is_text(value: object) -> TypeGuard[str]:
    """Whether it is a text that can be written and tokenized, which half of a surrogate pair cannot
    be, though JSON has a form for it.
    """
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def texts_of(name: str, value: object, least: int = 0) -> None:
    """Refuse what is no list of texts, or too short a one.

    Raises:
        ValueError: It is none; the message names it.
    """
    good = False
    if isinstance(value, Sequence) and not isinstance(value, str):
        good = len(value) >= least and all(map(is_text, value))
    expected = "a list of texts" + (f", {least} or more" if least else "")
    require(good, name, value, expected)


def one_of(*options: object) -> Check:
    """The check of values that are among `options`."""
    return Check(lambda v: v in options, f"one of {', '.join(map(repr, options))}")


def optional(inner: Check) -> Check:
    """The check that lets None pass and asks `inner` about everything else."""
    return Check(lambda v: v is None or inner.valid(v), f"{inner.expected}, or None")


def as_json(value: object, name: str = "value") -> Any:
    """`value` as it is once it was written as JSON and read back: keys are texts, tuples lists.

    Args:
        value: What is to be written.
        name: What it is called in messages; a part of it is named by its place, `name.key[0]`.

    Raises:
        ValueError: JSON has no such value, or two keys become one; the message names the place.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(
                f"{name} must be finite, got {value!r}, which is not JSON compliant: give a number,"
                " or null where there is none"
            )
        return float(value)
    if isinstance(value, list | tuple):
        return [as_json(one, f"{name}[{place}]") for place, one in enumerate(value)]
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a JSON value (text, number, true, false, null, list, or object), got"
            f" {shown(value)} of type {type(value).__name__}"
        )
    keys: dict[str, object] = {}
    for key in value:
        text = _as_key(key, name)
        if text in keys:
            raise ValueError(
                f"{name} has the keys {keys[text]!r} and {key!r}, which are one key in JSON: rename"
                " one of them"
            )
        keys[text] = key
    return {text: as_json(value[key], f"{name}.{text}") for text, key in keys.items()}


def _as_key(key: object, name: str) -> str:
    """A key as JSON writes it."""
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(as_json(key, f"a key of {name}"))
    raise ValueError(f"{name} has the key {key!r}, which must be a text, as JSON has no other")
