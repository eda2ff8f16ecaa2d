"""What evaluating an edit gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """An edit, measured on test data; what an environment's `evaluate(journal)` returns.

    Attributes:
        metrics: By the leaderboard's keys; None, or no key, where a task has no such thing.
        curves: By the leaderboard's keys, JSON values: `retention`, pairs of (age in edits,
            reliability at that age).
        records: One JSON object per edit of a stream, and per format that it is asked in, which the
            metrics were computed from; `edit` is the edit's number. None for a single edit.
    """

    metrics: Mapping[str, float | None]
    curves: Mapping[str, Any] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
