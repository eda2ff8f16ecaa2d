"""What one agent reached: estimates of its metrics, its costs, and whether forgetting is real."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.estimates import PROVISIONAL_BELOW
from benchmarks.report.families import SCORE, UNLEARNING
from benchmarks.results import TIME_KEYS, Row

# Forgetting that this many steps of fine-tuning undo, or that a probe sees through, is shallow.
SHALLOW_STEPS = 10
SHALLOW_PROBE = 0.9


@dataclass(frozen=True)
class Estimate:
    """One metric of one agent.

    Attributes:
        iqm: Interquartile mean.
        low: Lower end of its interval; None with fewer than five seeds.
        high: Upper end of its interval; None likewise.
        n: Seeds.
        rank: None where a metric only describes, or seeds are too few to compare.
        beaten_by: Agents that are significantly better.
    """

    iqm: float
    low: float | None
    high: float | None
    n: int
    rank: int | None = None
    beaten_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """One agent's line in a table.

    Attributes:
        agent: Its name, with what tells it from a namesake of another configuration.
        access: What it may look at.
        n: Finished seeds; in a table over several tasks, of the task that has the fewest.
        provisional: Whether `n` is too small to trust the intervals.
        failed: Number of failed cells.
        unsupported: Why it does not do the task.
        shallow: Whether what it forgot is still in the features, or back after a few steps of
            fine-tuning.
        reward_calls: Median over seeds.
        peak_memory_bytes: Largest of all seeds.
        time: Median over seeds, by the rows' own keys.
        metrics: Estimates by metric key.
    """

    agent: str
    access: str | None
    n: int
    provisional: bool
    failed: int
    unsupported: str | None
    shallow: bool
    reward_calls: int | None
    peak_memory_bytes: int | None
    time: Mapping[str, float | None]
    metrics: Mapping[str, Estimate]

    @property
    def rank(self) -> int | None:
        """Rank by the score; None without a result, or with too few seeds to compare."""
        return self.metrics[SCORE].rank if SCORE in self.metrics else None


def standing_of(
    name: str,
    rows: Sequence[Row],
    metrics: Mapping[str, Estimate],
    n: int,
    family: str | None,
) -> Standing:
    """The line of one agent.

    Args:
        name: The agent's label.
        rows: All its rows, finished or not.
        metrics: Its estimates.
        n: Its finished seeds, of the task that has the fewest.
        family: The family of its metrics.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    reward_calls = _median(row["reward_calls"] for row in finished)
    return Standing(
        agent=name,
        access=next((row["access"] for row in rows if row["access"]), None),
        n=n,
        provisional=0 < n < PROVISIONAL_BELOW,
        failed=sum(row["status"] == "failed" for row in rows),
        unsupported=next((row["error"] for row in rows if row["status"] == "unsupported"), None),
        shallow=family == UNLEARNING.name and _is_shallow(metrics),
        reward_calls=None if reward_calls is None else round(reward_calls),
        peak_memory_bytes=max((row["peak_memory_bytes"] or 0 for row in finished), default=None),
        time={key: _median(row["time"][key] for row in finished) for key in TIME_KEYS},
        metrics=metrics,
    )


def _is_shallow(metrics: Mapping[str, Estimate]) -> bool:
    """Whether at least half of the class was forgotten, but a probe or a few steps bring it
    back.
    """

    def iqm(key: str) -> float | None:
        return metrics[key].iqm if key in metrics else None

    after, before = iqm("forget_accuracy"), iqm("forget_accuracy_before")
    if after is None or before is None or after > before / 2:
        return False
    steps, probe, probe_before = (
        iqm("relearn_steps"),
        iqm("probe_accuracy"),
        iqm("probe_accuracy_before"),
    )
    seen_through = (
        probe is not None and probe_before is not None and probe >= SHALLOW_PROBE * probe_before
    )
    return seen_through or (steps is not None and steps <= SHALLOW_STEPS)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
