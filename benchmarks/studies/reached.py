"""What was reached, in one table: `python -m benchmarks.studies.reached` prints README's, from the
rows and files in `docs/results`. Each line has the page that says more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from agents.catalogue import agent_class
from benchmarks.report import families
from benchmarks.report.aggregate import metric_value
from benchmarks.report.estimates import interquartile_mean
from benchmarks.report.families import SCORE
from benchmarks.report.labels import by_label
from benchmarks.results import ROWS_FILE, Row, finished, rows_in
from benchmarks.studies.choosing import chosen
from benchmarks.studies.general_agents import GENERAL, TEST_CLASSES
from benchmarks.suites.entry import Labelled
from benchmarks.suites.smollm2 import AGENTS

_HARMONIC = "harmonic mean of reliability, generalization and locality"
_REAL = {"task": "knowledge/counterfact", "horizon": 20}
_TWENTY = {"suite": "lifelong", "horizon": 100, "agent": "ultraedit", "rehearse": None}


class Results:
    """The folder `docs/results`, or one like it, of which every file of rows is read once.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read = cache(rows_in)

    def rows(self, name: str, where: Mapping[str, Any]) -> list[Row]:
        """The finished rows of a folder in it that have these values.

        Raises:
            ValueError: There is none.
        """
        found = chosen(self._read(self.folder / name), where)
        if not found:
            raise ValueError(f"no finished row in {self.folder / name} has {dict(where)}")
        return found


Told = Callable[[Results], str]


def table(results: Path) -> str:
    """The Markdown table.

    Args:
        results: The folder `docs/results`, or one like it.

    Raises:
        ValueError: A line has no row.
    """
    own, lines = Results(results), ["| what was reached | |", "|---|---|"]
    for what, page, told, link in _LINES:
        lines.append(f"| {what} | {told(own)} ([{link}](docs/results/{page})) |")
    return "\n".join(lines)


def _values(rows: Sequence[Row], key: str) -> list[float]:
    family = families.family_of(
        name for row in rows for name, value in row["metrics"].items() if value is not None
    )
    values = [metric_value(row, key, family) for row in rows]
    return [value for value in values if value is not None]


def _mean(rows: Sequence[Row], key: str) -> float:
    return float(np.mean(_values(rows, key)))


def _iqm(rows: Sequence[Row], key: str) -> float:
    return float(interquartile_mean(_values(rows, key)))


def _lost(rows: Sequence[Row]) -> float:
    """Points of retain accuracy."""
    return 100 * (_mean(rows, "retain_accuracy_before") - _mean(rows, "retain_accuracy"))


def _forgetting(results: Results) -> str:
    groups = [
        results.rows(
            "worlds",
            {"agent": "ppo", "task": f"unlearning/{task}", "env_id": world, "sites": None},
        )
        for task in ("digits", "mnist")
        for world in ("MaskWorld-v0", "ShiftWorld-v0")
    ]
    forget, lost = max(_mean(rows, "forget_accuracy") for rows in groups), max(map(_lost, groups))
    return f"forget accuracy {forget:.1%}, retain accuracy at most {lost:.1f} points below before"


def _attacked(results: Results) -> str:
    rows = results.rows("attacks", {"agent": "ppo"})
    share = _iqm(rows, "logit_attack_recovered")
    count = len({row["seed"] for row in rows})
    return (
        f"{share:.0%} of what was taken (digits in ShiftWorld, {count} networks): they are shallow"
    )


def _in_depth(results: Results) -> str:
    own = {"agent": "reward_ascent"}
    plain = results.rows("deep", own | {"probe_weight": None, "relearn_weight": None})
    deep = results.rows("deep", own | {"alpha": 8.0, "probe_weight": 6.0, "relearn_weight": 3.0})
    simple = max(
        _mean(deep, f"{attack}_recovered") for attack in ("logit_attack", "few_image_relearning")
    )
    return (
        f"the worst attack brings back {_mean(deep, 'worst_attack'):.0%} in place of"
        f" {_mean(plain, 'worst_attack'):.0%}, a constant on the logit and five images"
        f" {simple:.0%}, at {_lost(deep):.1f} points of retain accuracy"
    )


def _one_policy(results: Results) -> str:
    agent = "gradient editor of 40 networks"
    rows = [
        row
        for row in finished(results.folder / "general" / ROWS_FILE)
        if row["agent"] == agent
        and row["class"] in TEST_CLASSES
        and row["network"] not in GENERAL[agent].networks
    ]
    if not rows:
        raise ValueError(f"no row in {results.folder / 'general'} is of the {agent}")
    forget = np.mean([row["forget"] for row in rows])
    lost = 100 * np.mean([row["retain_before"] - row["retain"] for row in rows])
    return f"forget accuracy {forget:.1%}, retain accuracy {lost:.1f} points below before"


def _real_model(results: Results) -> str:
    every = results.rows("smollm2", _REAL)
    of_weights = [
        row for row in every if getattr(agent_class(row["agent"]), "changes_weights", True)
    ]
    found = by_label(of_weights, along={"sites", "rehearse"}).values()
    rows = max(found, key=lambda own: _iqm(own, SCORE))
    streams = "one stream" if len(rows) == 1 else f"{len(rows)} streams"
    given, otherwise, kept = (
        _iqm(rows, key) for key in ("reliability", "generalization", "locality")
    )
    return (
        f"`{rows[0]['agent']}`, {streams}: {_percent(given)} of the facts answered as taught,"
        f" {_percent(otherwise)} in other words; {_percent(kept)} of the answers about neighbours"
        " unchanged"
    )


def _percent(share: float) -> str:
    """A share in percent, rounded as tables have it in thousandths."""
    return f"{100 * float(f'{share:.3f}'):.1f}%"


def _where_to_edit(results: Results) -> str:
    configs = {one.label: one.config for one in AGENTS if isinstance(one, Labelled)}
    facts = {"agent": "ultraedit", **_REAL}
    found, default, tuned, chance = (
        _mean(results.rows("smollm2", {**facts, **configs[f"one look, {sites}"]}), SCORE)
        for sites in ("sites found by rewards", "default sites", "tuned", "sites by chance")
    )
    return (
        f"{_HARMONIC}: {found:.3f} there, {default:.3f} at default sites, {tuned:.3f} at tuned"
        f" ones, {chance:.3f} at some drawn by chance"
    )


def _thousand_facts(results: Results) -> str:
    published, six, best = (
        _iqm(results.rows("lifelong", _TWENTY | where), SCORE)
        for where in (
            {"step_size": 0.0014, "passes": 1},
            {"step_size": 0.0002, "passes": 6},
            {"step_size": 0.001, "passes": 6},
        )
    )
    return (
        f"{_HARMONIC}: {published:.3f} with one look at every batch, {six:.3f} with six,"
        f" {best:.3f} with six at its best sites"
    )


def _large_model(results: Results) -> str:
    costs = json.loads(
        (results.folder / "lifelong" / "llama3_8b_h100.json").read_text(encoding="utf-8")
    )
    least, most = sorted(costs[key]["step_s"] for key in ("edit_step", "rledit_edit_step"))
    return f"{least:.2f} to {most:.2f} s"


_LINES: tuple[tuple[str, str, Told, str], ...] = (
    (
        "Forgetting a class by editing one layer: digits, MNIST, ten networks each, PPO from"
        " rewards alone",
        "unlearning.md",
        _forgetting,
        "table",
    ),
    (
        "What attacks bring back of such edits: one constant on the class's logit",
        "attacks.md",
        _attacked,
        "table",
    ),
    (
        "A reward that asks for forgetting in depth, ten networks, by its own gradient",
        "forgetting.md",
        _in_depth,
        "table",
    ),
    (
        "One policy for classes and networks that it never saw, learned on 40 networks by the"
        " reward's gradient: a mask for every weight, one step",
        "general_editor.md",
        _one_policy,
        "table",
    ),
    (
        "SmolLM2-135M-Instruct, 200 facts of CounterFact, the best editor of weights",
        "smollm2.md",
        _real_model,
        "table",
    ),
    (
        "Where to edit it: UltraEdit, one look at every batch, five streams, at the sites that a"
        " gate learned from rewards",
        "smollm2.md#where-to-edit-found-by-rewards",
        _where_to_edit,
        "table",
    ),
    (
        "1,000 facts in the bundled model: UltraEdit, its settings tuned",
        "streams.md",
        _thousand_facts,
        "table",
    ),
    (
        "A batch of 20 facts at Llama-3-8B's shape, bf16, one H100",
        "speed.md#a-large-model-on-a-gpu",
        _large_model,
        "costs",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.reached",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("docs/results"), metavar="DIR"
    )
    options = parser.parse_args(arguments)
    try:
        print(table(options.results))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
