"""Chosen metrics of chosen rows as one Markdown table: `python -m benchmarks.studies.columns DIR
--where horizon=20 rehearse=null --show H=score reliability`.

A line is an agent's rows of one environment, by the short name that its suite has for it; else the
settings and arguments of the environment in which lines differ are told, lists by how many they
hold. Besides metrics there are `score`, that of the family, `reward_calls`, and times such as
`train_s`; `KEY%` is in percent, and `ΔKEY` the change from before the edit. Numbers are
interquartile means over seeds, or with `--mean` means; those of metrics have 95% bootstrap
intervals from five seeds on. Lines are sorted by the metrics, the first one first, the best on top,
within what `--by` names. `--against sequences=20` adds a last column:
how much the first metric differs from that of the line whose rows have these values, seed by seed,
with its interval, or with fewer than five seeds the least and the largest difference.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import families
from benchmarks.report.aggregate import metric_value
from benchmarks.report.estimates import Interval, iqm_interval, mean_interval
from benchmarks.report.families import BEFORE, SCORE
from benchmarks.report.labels import at_one_budget, by_label, short_name, told_apart
from benchmarks.report.tables import MISSING, number
from benchmarks.results import Row, canonical_json, rows_in
from benchmarks.studies.choosing import chosen, seeded
from benchmarks.suites.cells import entries_of

CHANGE = "Δ"
_HEADINGS = {"env_id": "environment", "shift_limit": "box"}
_TOLD_ELSEWHERE = ("device", "task")
_PLACES = ("suite", "env_id", "task")


class Shown(NamedTuple):
    """A column: its heading, its metric, and whether it is shown in percent, and as the change from
    what it was before the edit.
    """

    heading: str
    key: str
    percent: bool
    change: bool

    @classmethod
    def of(cls, text: str) -> Shown:
        """`KEY`, `KEY%` for percent, `ΔKEY` for the change, each also behind `HEADING=`."""
        heading, _, key = text.rpartition("=")
        name = key.removesuffix("%").removeprefix(CHANGE)
        metric = SCORE if name == "score" else name
        words = heading or name.replace("_", " ")
        return cls(words, metric, key.endswith("%"), key.startswith(CHANGE))

    def value(self, row: Row, family: str | None) -> float | None:
        """What a row has of it."""
        value = _costs(row).get(self.key, metric_value(row, self.key, family))
        if value is None or not self.change:
            return value
        before = metric_value(row, f"{self.key}{BEFORE}", family)
        return None if before is None else value - before


def table(
    rows: Sequence[Row],
    shown: Sequence[Shown],
    by: Sequence[str] = (),
    *,
    mean: bool = False,
    against: Mapping[str, Any] | None = None,
) -> str:
    """The Markdown table.

    Args:
        rows: Finished ones.
        shown: The columns.
        by: Fields of rows or arguments of environments that stand in columns of their own, by which
            lines are kept together; lines that differ in other arguments have these told.
        mean: Whether means are shown, in place of interquartile means.
        against: What the rows of the line have that the others are set against; None for no such
            column.

    Raises:
        ValueError: There is no row, or a metric that no row has, or not one line that the others
            are to be set against.
    """
    if not rows:
        raise ValueError("no finished row is as --where says")
    for column in shown:
        if not any(_values([row], column) for row in rows):
            raise ValueError(f"--show: no row has the metric {column.key}")
    places: dict[str, list[Row]] = {}
    for row in rows:
        places.setdefault(canonical_json([_field(row, name) for name in by]), []).append(row)
    apart = _differing(rows, by)
    head = [
        *(_HEADINGS.get(name, name) for name in by),
        "agent",
        "n",
        *(column.heading for column in shown),
        *([f"{CHANGE} {shown[0].heading}"] if against else []),
    ]
    lines = [head, [*["---"] * (len(by) + 1), *["--:"] * (len(head) - len(by) - 1)]]
    for own in places.values():
        of_one_budget = at_one_budget(own)
        found = by_label(of_one_budget, along=apart)
        _check_once(of_one_budget, found)
        names = told_apart({label: _short(group) or label for label, group in found.items()})
        ordered = sorted(found.items(), key=lambda item: _order(item[1], shown, mean))
        lines += [_line(names[label], group, shown, by, mean) for label, group in ordered]
        if against:
            first = _one_line(found, against)
            for line, (label, group) in zip(lines[-len(ordered) :], ordered, strict=True):
                line.append(
                    MISSING if label == first else _beside(group, found[first], shown[0], mean)
                )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _check_once(rows: Sequence[Row], found: Mapping[str, Sequence[Row]]) -> None:
    """Refuse lines of which a seed has several rows, of different tasks or environments: a line
    shows one of them.
    """
    shown = {row["cell"] for own in found.values() for row in own}
    for row in rows:
        if row["cell"] in shown:
            continue
        ways = {name: {canonical_json(_field(one, name)) for one in rows} for name in _PLACES}
        told = ", ".join(name for name, values in ways.items() if len(values) > 1)
        raise ValueError(
            f"--by: {row['agent']} has several rows of seed {row['seed']} in one line, which differ"
            f" in {told or 'the networks that they edit'}: name it, or choose by --where"
        )


def _short(rows: Sequence[Row]) -> str | None:
    """The short name that the rows' suite has for the agent."""
    entries = entries_of(rows[0]["suite"])
    return short_name(rows, [one for entry in entries for one in entry.labelled])


def _one_line(found: Mapping[str, Sequence[Row]], against: Mapping[str, Any]) -> str:
    """The label of the line whose rows all have these values."""
    own = [label for label, rows in found.items() if len(chosen(rows, against)) == len(rows)]
    if len(own) != 1:
        raise ValueError(f"--against: must say which line it is, and fits {len(own)}: {own}")
    return own[0]


def _beside(rows: Sequence[Row], first: Sequence[Row], column: Shown, mean: bool) -> str:
    """How much a column differs from that of other rows, seed by seed."""
    ours, theirs = _values(rows, column), _values(first, column)
    changes = {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}
    if not changes:
        return MISSING
    interval = _estimated(changes, mean)
    scale, digits = (100, 2) if column.percent else (1, 3)

    def one(value: float) -> str:
        return f"{scale * value:+.{digits}f}"

    if interval.low is None or interval.high is None:
        least, most = min(changes.values()), max(changes.values())
        return f"{one(interval.estimate)} ({one(least)} to {one(most)})"
    return f"{one(interval.estimate)} [{one(interval.low)}, {one(interval.high)}]"


def _field(row: Row, name: str) -> Any:
    return row.get(name, row["env_kwargs"].get(name))


def _differing(rows: Sequence[Row], by: Sequence[str]) -> frozenset[str]:
    """The arguments of environments in which rows differ, but for those that are told anyway."""
    names = {name for row in rows for name in row["env_kwargs"]}.difference(
        by, _TOLD_ELSEWHERE, seeded(rows)
    )
    return frozenset(
        name
        for name in names
        if len({canonical_json(row["env_kwargs"].get(name)) for row in rows}) > 1
    )


def _values(rows: Sequence[Row], column: Shown) -> dict[int, float]:
    # Early rows name the metrics of all families, the others' without a value.
    family = families.family_of(
        name for row in rows for name, value in row["metrics"].items() if value is not None
    )
    found = {row["seed"]: column.value(row, family) for row in rows}
    return {seed: value for seed, value in found.items() if value is not None}


def _costs(row: Row) -> dict[str, float]:
    return {"reward_calls": row["reward_calls"], **row["time"]}


def _order(rows: Sequence[Row], shown: Sequence[Shown], mean: bool) -> tuple[float, ...]:
    """The best side first, by one metric after the other; what has no value comes last."""
    places = []
    for column in shown:
        better = families.direction(column.key)
        values = _values(rows, column)
        if better is not None and not families.is_before(column.key):
            sign = 1 if better == "lower" else -1
            places.append(sign * _estimated(values, mean).estimate if values else float("inf"))
    return tuple(places)


def _line(
    label: str, rows: Sequence[Row], shown: Sequence[Shown], by: Sequence[str], mean: bool
) -> list[str]:
    agent, _, settings = label.partition(" (")
    told = f", {_brief(settings.removesuffix(')'))}" if settings else ""
    return [
        *(MISSING if (value := _field(rows[0], name)) is None else str(value) for name in by),
        f"`{agent}`{told}",
        str(len(rows)),
        *(_cell(rows, column, mean) for column in shown),
    ]


def _brief(settings: str) -> str:
    """Settings with their lists by how many they hold, and mappings as settings in brackets."""
    listed = r"\[(?:'[^']*'(?:, )?)+\]|\[[^\]']*\]"
    counted = re.sub(listed, lambda found: str(found[0].count(", ") + 1), settings)
    inner = re.compile(r"\{([^}]*)\}")
    return inner.sub(lambda found: f"({found[1].replace(': ', '=')})", counted).replace("'", "")


def _cell(rows: Sequence[Row], column: Shown, mean: bool) -> str:
    values = _values(rows, column)
    if not values:
        return MISSING
    interval = _estimated(values, mean)
    if column.key in _costs(rows[0]):
        return f"{interval.estimate:,.0f}"
    return _text(interval, column)


def _estimated(values: Mapping[int, float], mean: bool) -> Interval:
    return mean_interval(list(values.values())) if mean else iqm_interval({("", ""): values})


def _text(interval: Interval, column: Shown) -> str:
    def one(value: float) -> str:
        if column.percent:
            return f"{100 * value:+.2f}" if column.change else f"{100 * value:.2f}"
        return number(value)

    if interval.low is None or interval.high is None:
        return one(interval.estimate)
    return f"{one(interval.estimate)} [{one(interval.low)}, {one(interval.high)}]"


def _condition(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"write NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.columns",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument(
        "--show", nargs="+", type=Shown.of, required=True, metavar="[HEADING=][Δ]KEY[%%]"
    )
    parser.add_argument("--where", nargs="+", type=_condition, default=(), metavar="NAME=VALUE")
    parser.add_argument("--by", nargs="+", default=(), metavar="NAME")
    parser.add_argument("--mean", action="store_true", help="means, not interquartile means")
    parser.add_argument("--against", nargs="+", type=_condition, default=(), metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    try:
        rows = chosen(rows_in(*options.folders), dict(options.where))
        against = dict(options.against)
        print(table(rows, options.show, options.by, mean=options.mean, against=against))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
