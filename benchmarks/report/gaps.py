"""Seeds that an agent has no result of, while another one has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from benchmarks.report.strata import STRATUM
from benchmarks.results import Row


def given_up_as_failed(rows: Sequence[Row]) -> list[Row]:
    """The rows of one agent in one stratum. What it says it does not do, and does on other seeds,
    it has failed: it would choose the seeds that it is measured on.
    """
    if not any(row["status"] == "finished" for row in rows):
        return list(rows)
    return [{**row, "status": "failed"} if row["status"] == "unsupported" else row for row in rows]


def lacking_seeds(by_agent: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """By agent that has a result, how many seeds of a stratum, at most, it failed where another one
    did not; agents that lack none are left out.
    """
    done = {
        name: {(row[STRATUM], row["seed"]) for row in rows if row["status"] == "finished"}
        for name, rows in by_agent.items()
    }
    every = set().union(*done.values())
    missing = {
        name: Counter(
            stratum
            for stratum, seed in {(row[STRATUM], row["seed"]) for row in rows}
            if (stratum, seed) in every - done[name]
        )
        for name, rows in by_agent.items()
        if done[name]
    }
    return {name: max(counts.values()) for name, counts in missing.items() if counts}
