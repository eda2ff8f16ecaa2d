"""What one agent reached: estimates of its metrics, its costs, and whether forgetting is real."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.report.estimates import PROVISIONAL_BELOW
from benchmarks.report.families import SCORE, UNLEARNING
from benchmarks.results import TIME_KEYS, Row
from benchmarks.results.form import ACCESS
from benchmarks.results.lines import printable

# Where a row's marks of verification stand while it is reported, one text for each.
VERIFIED = "verified"
# Forgetting is shallow where an attack has half of the way back to the unedited network; in rows
# that were measured without attacks, where so few steps of fine-tuning undo it, or a probe sees
# through it.
SHALLOW_SHARE = 0.5
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
        access: What it may look at: the most that it was given for any of its rows.
        n: Finished seeds; in a table over several tasks, of the task that has the fewest.
        provisional: Whether `n` is too small to trust the intervals.
        failed: Number of failed cells.
        verified: Number of seeds that somebody else ran again, in every task, with the same result.
        unsupported: Why it does not do the task.
        shallow: Whether what it forgot can be had back, beyond what the retrained network gives.
        reward_calls: Median over seeds.
        peak_memory_bytes: Largest of all seeds.
        time: Median over seeds, by the rows' own keys.
        metrics: Estimates by metric key.
        label: The name in short, where the suite gives it one.
        lacking: Number of seeds that it failed and others did not, of the task with the most.
    """

    agent: str
    access: str | None
    n: int
    provisional: bool
    failed: int
    verified: int
    unsupported: str | None
    shallow: bool
    reward_calls: int | None
    peak_memory_bytes: int | None
    time: Mapping[str, float | None]
    metrics: Mapping[str, Estimate]
    label: str = ""
    lacking: int = 0

    @property
    def rank(self) -> int | None:
        """Rank by the score; None without a result, or with too few seeds to compare."""
        return self.metrics[SCORE].rank if SCORE in self.metrics else None

    @property
    def seeds(self) -> str:
        """Its seeds, and of how many where it lacks some."""
        return f"{self.n} of {self.n + self.lacking}" if self.lacking else str(self.n)


def standing_of(
    name: str,
    rows: Sequence[Row],
    metrics: Mapping[str, Estimate],
    n: int,
    family: str | None,
    oracle: Mapping[str, Estimate] | None = None,
    lacking: int = 0,
) -> Standing:
    """The line of one agent.

    Args:
        name: The agent's label.
        rows: All its rows, finished or not.
        metrics: Its estimates.
        n: Its finished seeds, of the task that has the fewest.
        family: The family of its metrics.
        oracle: The estimates of the retrained network, where the table has it.
        lacking: How many seeds it failed and others did not, of the task with the most.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    reward_calls = _median(row["reward_calls"] for row in finished)
    return Standing(
        agent=name,
        access=_widest(row["access"] for row in rows),
        n=n,
        provisional=0 < n < PROVISIONAL_BELOW,
        failed=sum(row["status"] == "failed" for row in rows),
        verified=_verified(finished),
        unsupported=_reason(rows),
        shallow=family == UNLEARNING.name and _is_shallow(metrics, oracle or {}),
        reward_calls=None if reward_calls is None else round(reward_calls),
        peak_memory_bytes=_largest(row.get("peak_memory_bytes") for row in finished),
        time={key: _median(row["time"][key] for row in finished) for key in TIME_KEYS},
        metrics=metrics,
        label=name,
        lacking=lacking,
    )


def _reason(rows: Sequence[Row]) -> str | None:
    """Why an agent does not do the task, on one line: the text is the agent's own."""
    told = (row["error"] for row in rows if row["status"] == "unsupported" and row["error"])
    reason = next(told, None)
    return None if reason is None else " ".join(printable(reason).split())


def _widest(accesses: Iterable[str | None]) -> str | None:
    """The access that lets an agent see most; None where there is none."""
    known = [access for access in accesses if access in ACCESS]
    return max(known, key=ACCESS.index, default=None)


def _largest(sizes: Iterable[int | None]) -> int | None:
    return max((size for size in sizes if size is not None), default=None)


def _verified(finished: Sequence[Row]) -> int:
    """Seeds of which every row has a mark of verification."""
    without = {row["seed"] for row in finished if not row.get(VERIFIED)}
    return len({row["seed"] for row in finished} - without)


def _is_shallow(metrics: Mapping[str, Estimate], oracle: Mapping[str, Estimate]) -> bool:
    """Whether at least half of the class was forgotten, but it can be had back.

    Attacks are measured from the retrained network on; what a probe or a few steps of fine-tuning
    find counts where they do not find it in the retrained network too.
    """
    after, before = _iqm(metrics, "forget_accuracy"), _iqm(metrics, "forget_accuracy_before")
    if after is None or before is None or after > before / 2:
        return False
    if (worst := _iqm(metrics, "worst_attack")) is not None:
        return worst >= SHALLOW_SHARE
    found = zip(_signs(metrics), _signs(oracle), strict=True)
    return any(here and not there for here, there in found)


def _signs(metrics: Mapping[str, Estimate]) -> tuple[bool, bool]:
    """Whether a few steps of fine-tuning bring the class back, and whether a probe finds it."""
    steps, probe = _iqm(metrics, "relearn_steps"), _iqm(metrics, "probe_accuracy")
    probe_before = _iqm(metrics, "probe_accuracy_before")
    return (
        steps is not None and steps <= SHALLOW_STEPS,
        probe is not None and probe_before is not None and probe >= SHALLOW_PROBE * probe_before,
    )


def _iqm(metrics: Mapping[str, Estimate], key: str) -> float | None:
    return metrics[key].iqm if key in metrics else None


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
