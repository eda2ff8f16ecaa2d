"""Checks of values that a user hands in: an error names the argument, its value and what is right.

The checks stand on the ground floor: data, models, weights, tasks, environments, agents and
benchmarks use them alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def is_whole(value: object) -> bool:
    """Whether `value` is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether `value` is a number that is neither nan nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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


def one_of(*options: object) -> Check:
    """The check of values that are among `options`."""
    return Check(lambda v: v in options, f"one of {', '.join(map(repr, options))}")


def optional(inner: Check) -> Check:
    """The check that lets None pass and asks `inner` about everything else."""
    return Check(lambda v: v is None or inner.valid(v), f"{inner.expected}, or None")
