"""Every check lets what it names pass, and its error says name, value and what is right."""

import enum
import json
import math
import re
from fractions import Fraction

import numpy as np
import pytest

from editgym.checks import (
    above,
    as_json,
    as_whole,
    at_least,
    one_of,
    optional,
    require_known,
    whole,
    within,
)


@pytest.mark.parametrize(
    ("check", "right", "wrong", "expected"),
    [
        (whole(1), (1, 10**12), (0, 1.0, True, "1", None), "1 or more, a whole number"),
        (at_least(0), (0, 0.5, 3), (-1e-9, math.nan, math.inf, True, "0"), "0 or more and finite"),
        (above(0), (1e-9, 3), (0, -1, math.nan, math.inf, None), "greater than 0 and finite"),
        (within(0, 1), (0, 0.5, 1), (-0.1, 1.1, math.nan, None), "from 0 to 1"),
        (one_of("a", 2), ("a", 2), ("b", None), "one of 'a', 2"),
        (optional(whole(1)), (None, 1), (0, 1.5), "1 or more, a whole number, or None"),
    ],
)
def test_a_check_tells_right_from_wrong(check, right, wrong, expected):
    for value in right:
        check("argument", value)
    for value in wrong:
        message = f"argument must be {expected}, got {value!r}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            check("argument", value)


@pytest.mark.parametrize("digits", [400, 5_000])
@pytest.mark.parametrize("check", [at_least(0), above(0), within(0, 1)])
def test_an_integer_beyond_all_numbers_is_an_error_like_any_other(check, digits):
    for value in (10**digits, -(10**digits)):
        expected = rf"^argument must be {re.escape(check.expected)}, got "
        with pytest.raises(ValueError, match=expected):
            check("argument", value)
        with pytest.raises(ValueError, match="or None, got "):
            optional(check)("argument", value)


def test_an_integer_that_cannot_be_written_is_said_to_be_one():
    with pytest.raises(
        ValueError, match=r"got a value of type int that is too long to be written$"
    ):
        whole(1)("argument", -(10**5_000))


@pytest.mark.parametrize("number", [3, 3.0, np.int8(3), np.float32(3), Fraction(6, 2)])
def test_a_whole_number_may_be_of_any_type(number):
    assert as_whole(number) == 3
    assert type(as_whole(number)) is int


@pytest.mark.parametrize("value", [0.5, math.nan, math.inf, True, np.True_, "3", None, [3]])
def test_what_is_no_whole_number_is_none(value):
    assert as_whole(value) is None


def test_names_that_nobody_takes_are_told_with_their_values_and_the_nearest():
    require_known("x takes no argument", {"a": 1}, ["a", "b"])
    message = (
        r"^x takes no argument hights=\[1\] \(did you mean height\?\); it takes width, height$"
    )
    with pytest.raises(ValueError, match=message):
        require_known("x takes no argument", {"hights": [1], "width": 2}, ["width", "height"])
    with pytest.raises(ValueError, match=r"^x takes no argument a=1; it takes none$"):
        require_known("x takes no argument", {"a": 1}, [])


class Kind(enum.StrEnum):
    """A text that is more than a text."""

    FIRST = "first"


def test_a_value_is_what_json_gives_back():
    value = {1: (1, 2.5, None), "b": {Kind.FIRST: [True, Kind.FIRST]}, None: np.float64(0.1)}
    found = as_json(value)
    assert found == json.loads(json.dumps(value))
    assert found == {"1": [1, 2.5, None], "b": {"first": [True, "first"]}, "null": 0.1}
    assert type(found["null"]) is float
    assert type(found["b"]["first"][1]) is str
