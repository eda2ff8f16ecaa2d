"""A seed, or a generator, for each of K candidates."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from editgym.checks import require


def seed_of_each(seed: object, count: int) -> list[int | None]:
    """A seed for each of `count` candidates, None where there is none.

    Raises:
        ValueError: They are no whole numbers, or not one for each.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, np.ndarray) and seed.ndim == 0:
        seed = seed.item()
    if isinstance(seed, Integral):
        return [int(seed) + i for i in range(count)]
    given: list[Any] = list(seed) if isinstance(seed, Sequence | np.ndarray) else [seed]
    valid = all(one is None or isinstance(one, Integral) for one in given)
    require(valid, "seed", seed, "a whole number, a sequence of these and of None, or None")
    if len(given) != count:
        raise ValueError(f"seed has {len(given)} entries, expected {count}")
    return [None if one is None else int(one) for one in given]


def generator_of_each(given: object, count: int) -> list[np.random.Generator]:
    """A generator for each of `count` candidates: those that are given, or spawned from one.

    Raises:
        ValueError: They are no generators, or not one for each.
    """
    if isinstance(given, np.random.Generator):
        return given.spawn(count)
    own: list[Any] = list(given) if isinstance(given, Sequence) else []
    valid = len(own) == count and all(isinstance(one, np.random.Generator) for one in own)
    require(valid, "np_random", given, f"a Generator, or {count} of them")
    return own
