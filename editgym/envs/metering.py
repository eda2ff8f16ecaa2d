"""Count the reward evaluations made in this process, so that a harness need not believe the
agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class RewardMeter:
    """`calls` is the number of candidate edits whose reward was computed."""

    calls: int = 0


_active: list[RewardMeter] = []


@contextmanager
def count_reward_calls() -> Iterator[RewardMeter]:
    """Count every candidate step of every environment of this process while the context is open."""
    meter = RewardMeter()
    _active.append(meter)
    try:
        yield meter
    finally:
        # By identity: nested meters with equal counts are equal as dataclasses.
        _active[:] = [other for other in _active if other is not meter]


def record(candidates: int) -> None:
    """Called by the environments: `candidates` rewards were computed."""
    for meter in _active:
        meter.calls += candidates
