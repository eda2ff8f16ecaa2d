"""Debiasing agents against the linear frontier: `python -m benchmarks.studies.frontier DIR [--json
FILE]`.

DIR holds `results.jsonl` of a leaderboard. For every finished debiasing cell's network the frontier
is computed anew: logistic regression on the last layer's features of the policy split, traced over
the weight of the templates, measured on the test split. An agent's share is its mean gain of
unbiased accuracy over seeds by the most that the frontier's mean curve gains at no more loss of
general accuracy.

`--show FILE` prints what `--json` wrote, without computing anything; `--task TEXT` prints the lines
alone whose task, with what was asked of the environment, begins with it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import gymnasium as gym
import numpy as np

from agents.debiasing.episode import debiasing_task
from agents.debiasing.frontier import LinearFrontier
from agents.debiasing.last_layer import HeadOfNetwork
from benchmarks.harness.machine import single_thread
from benchmarks.harness.measure import cell_spec
from benchmarks.report.labels import by_label
from benchmarks.report.strata import Strata
from benchmarks.results import Cell, Row, canonical_json, rows_in
from editgym.envs.protocol import open_env
from editgym.paths import whole_file

WEIGHTINGS = (
    0.03,
    0.1,
    0.2,
    0.3,
    0.5,
    0.7,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    5.0,
    7.0,
    10.0,
    15.0,
    20.0,
    30.0,
    50.0,
)
_OF_THE_EDIT = ("signal", "sites", "device", "rank", "episode_length", "shift_limit")


@dataclass(frozen=True)
class Change:
    """After less before, in accuracy on the test split."""

    general: float
    unbiased: float


@dataclass(frozen=True)
class Share:
    """One agent beside the frontier.

    Attributes:
        stratum: Environment, task, and what else was asked of the environment.
        agent: Name, with the settings in which it differs from a namesake.
        seeds: How many.
        general: Mean change of general accuracy.
        unbiased: Mean change of unbiased accuracy.
        available: What the frontier gains at no more loss.
        share: `unbiased` by `available`; None where the frontier gains nothing.
    """

    stratum: str
    agent: str
    seeds: int
    general: float
    unbiased: float
    available: float

    @property
    def share(self) -> float | None:
        """`unbiased` by `available`."""
        return self.unbiased / self.available if self.available > 0 else None


def trace(cell: Cell) -> list[Change]:
    """The frontier of a cell's network on the test split, one point for every weighting."""
    with closing(gym.make(cell_spec(cell, evaluation=True))) as env:
        env.reset(seed=cell.seed)
        task = debiasing_task(env)
        own = HeadOfNetwork(open_env(env).network, task.pool.inputs[:8])
        test = own.pair(task.labelled("test"))
        before = [own.head.accuracy(part) for part in test]
        heads = LinearFrontier(weightings=WEIGHTINGS).trace(own.pair(task.labelled("policy")))
    return [
        Change(*(head.accuracy(part) - old for part, old in zip(test, before, strict=True)))
        for head in heads
    ]


def mean_curve(curves: Sequence[Sequence[Change]]) -> list[Change]:
    """Point by point, the mean over networks."""
    return [
        Change(fmean(p.general for p in points), fmean(p.unbiased for p in points))
        for points in zip(*curves, strict=True)
    ]


def available(curve: Sequence[Change], general: float) -> float:
    """The most unbiased accuracy that a curve gains where general accuracy changes by `general` or
    better.

    Linear between neighbouring points of the curve; no edit, without gain or loss, is always there
    to take.
    """
    gains = [0.0] if general <= 0 else []
    for one, other in pairwise(curve):
        for t in np.linspace(0, 1, 101):
            if (1 - t) * one.general + t * other.general >= general:
                gains.append(float((1 - t) * one.unbiased + t * other.unbiased))
    return max(gains, default=0.0)


def shares(rows: Sequence[Row]) -> list[Share]:
    """Every agent's share, by environment, task and what else was asked of the environment."""
    finished = [
        row
        for row in rows
        if row["status"] == "finished" and (row["task"] or "").startswith("debiasing/")
    ]
    curves: dict[str, list[Change]] = {}
    strata: dict[str, list[Row]] = {}
    for row in finished:
        network = _network(row)
        if network not in curves:
            curves[network] = trace(Cell.of(row))
        strata.setdefault(Strata().of(row), []).append(row)
    return [
        _share(where, label, own, mean_curve([curves[_network(row)] for row in own]))
        for where, rows in strata.items()
        for label, own in by_label(rows).items()
    ]


def _share(where: str, agent: str, rows: Sequence[Row], curve: Sequence[Change]) -> Share:
    general, unbiased = (
        fmean(
            row["metrics"][f"{name}_accuracy"] - row["metrics"][f"{name}_accuracy_before"]
            for row in rows
        )
        for name in ("general", "unbiased")
    )
    return Share(where, agent, len(rows), general, unbiased, available(curve, general))


def _network(row: Row) -> str:
    """What tells networks and data apart: the task's arguments, not the agent's, nor how an edit is
    made.
    """
    chosen = {key: value for key, value in row["env_kwargs"].items() if key not in _OF_THE_EDIT}
    return canonical_json({**chosen, "seed": row["seed"] if "networks" in chosen else None})


def table(found: Sequence[Share], task: str | None = None) -> str:
    """The shares as a Markdown table, changes in points.

    Args:
        found: All shares.
        task: How the tasks begin whose lines are shown; None for all.

    Raises:
        ValueError: No share is of the task.
    """
    own = [row for row in found if task is None or f" · {task}" in row.stratum]
    if not own:
        raise ValueError(f"--task: no share is of {task}")
    # World by world as they come, the largest share first.
    places = {row.stratum: place for place, row in reversed(list(enumerate(own)))}
    own.sort(key=lambda row: (places[row.stratum], row.share is None, -(row.share or 0)))
    lines = [
        "| world and task | agent | n | general | unbiased | frontier's | share |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in own:
        share = "—" if row.share is None else f"{row.share:.0%}"
        lines.append(
            f"| {row.stratum} | {row.agent} | {row.seeds} | {100 * row.general:+.2f} | "
            f"{100 * row.unbiased:+.2f} | {100 * row.available:+.2f} | {share} |"
        )
    return "\n".join(lines)


def read(file: Path) -> list[Share]:
    """The shares that `--json` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    names = [one.name for one in fields(Share)]
    try:
        return [
            Share(**{name: row[name] for name in names})
            for row in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"--show: {file} is no file of shares: {error!r}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of shares, in points; with `--json` also write it. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.frontier",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="with results.jsonl")
    source.add_argument("--show", type=Path, metavar="FILE", help="only print what FILE holds")
    parser.add_argument("--task", metavar="TEXT", help="print lines of these tasks alone")
    parser.add_argument("--json", type=Path, help="also write the table here")
    options = parser.parse_args(arguments)
    try:
        if options.show:
            found = read(options.show)
        else:
            with single_thread():
                found = shares(rows_in(options.folder))
        print(table(found, options.task))
        if options.json:
            own = [asdict(row) | {"share": row.share} for row in found]
            with whole_file(options.json) as partial:
                partial.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
