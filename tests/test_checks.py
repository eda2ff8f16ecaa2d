"""Every check lets what it names pass, and its error says name, value and what is right."""

import math
import re

import pytest

from editgym.checks import above, at_least, one_of, optional, whole, within


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
