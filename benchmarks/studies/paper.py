"""MNIST beside Malik (2026): `python -m benchmarks.studies.paper DIR [DIR ...]` prints the table,
from leaderboard rows.

The rows come from `leaderboard run --suite worlds --tasks unlearning/mnist` and `--suite paper`.
Means over seeds, as the paper has them, with 95% bootstrap intervals over seeds from five seeds on;
everything on test images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.report.estimates import PROVISIONAL_BELOW, mean_interval
from benchmarks.report.labels import by_label
from benchmarks.results import Row, rows_in

AGENTS = ("ppo", "cmaes")


@dataclass(frozen=True)
class Condition:
    """One experiment: what was asked of the environment, and what the paper reports (percent),
    world by world.

    Attributes:
        label: Row heading.
        env_kwargs: Arguments beyond task, network seed and device.
        paper: World -> the paper's retain and forget, as it prints them.
    """

    label: str
    env_kwargs: Mapping[str, object]
    paper: Mapping[str, str]


CONDITIONS = (
    Condition(
        "under-trained network",
        {"undertrained": True},
        {
            "MaskWorld-v0": "92.84 → 93.51, 89.55 → 0.00",
            "ShiftWorld-v0": "92.84 → 93.50, 89.55 → 0.06",
        },
    ),
    Condition(
        "the same, 2 edits",
        {"undertrained": True, "episode_length": 2},
        {
            "MaskWorld-v0": "92.31 → 92.13 (validation)",
            "ShiftWorld-v0": "92.31 → 80.06 (validation)",
        },
    ),
    Condition(
        "the same, 4 edits",
        {"undertrained": True, "episode_length": 4},
        {
            "MaskWorld-v0": "92.31 → 89.09 (validation)",
            "ShiftWorld-v0": "92.31 → 75.00, forget 6.38 (validation)",
        },
    ),
    Condition("well-trained network", {}, {}),
    *(
        Condition(f"well-trained, forget {digit}", {"forget_class": digit}, {})
        for digit in (0, 1, 2, 3, 4, 5, 6, 8, 9)
    ),
)


def table(rows: Sequence[Row]) -> str:
    """The Markdown table."""
    lines = [
        (
            "| world | experiment | agent | n | reward calls | retain before | retain after |"
            " forget before | forget after | paper: retain, forget |"
        ),
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for world in ("MaskWorld-v0", "ShiftWorld-v0"):
        for condition in CONDITIONS:
            for agent in AGENTS:
                own = by_label([row for row in rows if _belongs(row, world, condition, agent)])
                lines += [_line(world, condition, label, chosen) for label, chosen in own.items()]
    return "\n".join(lines)


def _belongs(row: Row, world: str, condition: Condition, agent: str) -> bool:
    extra = {
        key: value
        for key, value in row["env_kwargs"].items()
        if key not in ("task", "model_seed", "device")
    }
    return (
        row["status"] == "finished"
        and row["env_id"] == world
        and row["agent"] == agent
        and row["task"] == "unlearning/mnist"
        and extra == dict(condition.env_kwargs)
    )


def _line(world: str, condition: Condition, label: str, rows: Sequence[Row]) -> str:
    def cell(key: str) -> str:
        mean = mean_interval([row["metrics"][key] for row in rows])
        if mean.low is None or mean.high is None:
            return f"{100 * mean.estimate:.2f}"
        return f"{100 * mean.estimate:.2f} [{100 * mean.low:.2f}, {100 * mean.high:.2f}]"

    n = f"{len(rows)}" + (" (provisional)" if len(rows) < PROVISIONAL_BELOW else "")
    calls = f"{round(np.median([row['reward_calls'] for row in rows])):,}"
    cells = [
        world,
        condition.label,
        label,
        n,
        calls,
        cell("retain_accuracy_before"),
        cell("retain_accuracy"),
        cell("forget_accuracy_before"),
        cell("forget_accuracy"),
        condition.paper.get(world, "") if rows[0]["agent"] == AGENTS[0] else "",
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="results of leaderboard runs"
    )
    options = parser.parse_args(arguments)
    try:
        print(table(rows_in(*options.folders)))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
