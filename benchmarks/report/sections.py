"""Every group's table with its figures, and what is said of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import estimates as statistics
from benchmarks.report.aggregate import Group
from benchmarks.report.looks import palette
from benchmarks.report.plots import Plot, figures
from benchmarks.report.tables import Table, group_tables
from benchmarks.results import Row


@dataclass(frozen=True)
class Section:
    """A group's table with its figures."""

    table: Table
    plots: tuple[Plot, ...]


def sections_of(groups: Sequence[Group]) -> list[Section]:
    """A section for each group."""
    looks = palette(groups)
    pooled = {(group.suite, group.family) for group in groups if len(group.strata) > 1}
    sections = []
    for group, table in zip(groups, group_tables(groups), strict=True):
        # One profile over all tasks of a family says more than one for each, and a trade-off less.
        is_pooled = len(group.strata) > 1
        skipped = (
            {"trade-off"}
            if is_pooled
            else ({"profile"} if (group.suite, group.family) in pooled else set())
        )
        sections.append(Section(table, tuple(figures(group, looks, table.slug, skipped))))
    return sections


def bootstrap() -> dict[str, Any]:
    """How intervals were computed."""
    return {
        "seed": statistics.BOOTSTRAP_SEED,
        "samples": statistics.BOOTSTRAP_SAMPLES,
        "confidence": statistics.CONFIDENCE,
        "aggregate": "interquartile mean",
    }


def overview(rows: Sequence[Row]) -> str:
    """How many cells there are, and what intervals are of."""
    counts = {
        status: sum(row["status"] == status for row in rows)
        for status in ("finished", "failed", "unsupported")
    }
    return (
        f"{len(rows):,} cells: "
        + ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
        + f". Bootstrap over seeds: {statistics.BOOTSTRAP_SAMPLES:,} resamples, seed"
        f" {statistics.BOOTSTRAP_SEED}."
    )
