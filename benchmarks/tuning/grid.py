"""Grids of settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations of the values of each setting."""
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]
