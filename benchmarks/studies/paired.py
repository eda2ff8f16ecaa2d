"""What one argument or setting changes: `python -m benchmarks.studies.paired DIR --by rehearse`.

Of the rows in DIR those are compared that are alike in everything but NAME, an argument of the
environment or a setting of the agent, seed by seed: prints a Markdown table with the score without
it, or with its default, and the differences in the score and its parts, interquartile means with
95% bootstrap intervals over the seeds that both have. `--agents cmaes ppo` compares the second
agent with the first, in every environment and task that both have edited.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from benchmarks.report import families
from benchmarks.report.aggregate import metric_value
from benchmarks.report.estimates import Runs, iqm_interval, paired_difference
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.tables import MISSING, interval_text
from benchmarks.results import ROWS_FILE, Row, canonical_json, read_rows
from benchmarks.studies.choosing import seeded

Rows = Mapping[int, Row]  # by seed


def pairs(rows: Sequence[Row], name: str) -> Iterator[tuple[Any, Rows, Any, Rows]]:
    """Rows without the argument or with its first value, beside those with another value: value
    and rows, then value and rows.

    Args:
        rows: Finished ones.
        name: An argument of the environment, or a setting of the agent.

    Raises:
        ValueError: An agent has two rows of one seed that differ in their networks alone.
    """
    alike: dict[str, dict[str, tuple[Any, dict[int, Row]]]] = {}
    left_out = {name, *seeded(rows)}
    for row in rows:
        value = row["env_kwargs"].get(name, row["settings"].get(name))
        _, own = alike.setdefault(_apart_from(row, left_out), {}).setdefault(
            canonical_json(value), (value, {})
        )
        if own.setdefault(row["seed"], row) is not row:
            raise ValueError(
                f"--by: {row['agent']} has two rows of seed {row['seed']} in {row['env_id']}, of"
                " two networks: which one is meant, nobody can tell"
            )
    for values in alike.values():
        # What is not given, null in JSON, is what the others are compared with.
        (base, before), *others = sorted(values.values(), key=lambda one: one[0] is not None)
        for value, after in others:
            if before.keys() & after.keys():
                yield base, before, value, after


def agent_pairs(rows: Sequence[Row], first: str, second: str) -> Iterator[tuple[Rows, Rows]]:
    """Rows of two agents in each environment that both have edited.

    Raises:
        ValueError: One of them has two rows of a seed there, with different settings.
    """
    alike: dict[str, dict[str, dict[int, Row]]] = {}
    left_out = seeded(rows)
    for row in rows:
        if row["agent"] not in (first, second):
            continue
        kwargs = {key: value for key, value in row["env_kwargs"].items() if key not in left_out}
        where = canonical_json([row["suite"], row["env_id"], kwargs])
        own = alike.setdefault(where, {}).setdefault(row["agent"], {})
        if own.setdefault(row["seed"], row) is not row:
            raise ValueError(
                f"--agents: {row['agent']} has two rows of seed {row['seed']} in {row['env_id']},"
                f" {row['task']}, with different settings: which one is meant, nobody can tell"
            )
    for agents in alike.values():
        if agents.get(first, {}).keys() & agents.get(second, {}).keys():
            yield agents[first], agents[second]


def table(rows: Sequence[Row], name: str) -> str:
    """The comparison as a Markdown table.

    Raises:
        ValueError: No two rows differ in `name` alone.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    found = list(pairs(finished, name))
    if not found:
        raise ValueError(f"--by: no two rows of one seed differ in {name!r} alone")
    family = families.family_of({key: None for row in finished for key in row["metrics"]})
    lines = []
    for base, before, value, after in found:
        row = next(iter(before.values()))
        where = _words({"horizon": row["env_kwargs"].get("horizon")}, name).strip(", ") or MISSING
        who = f"`{row['agent']}`{_words(row['agent_config'], name)}"
        change = f"{_shown(base)} → {_shown(value)}"
        lines.append([who, where, change, *_differences(before, after, family)])
    return _markdown(["agent", "environment", name], lines, family)


def agents_table(rows: Sequence[Row], first: str, second: str) -> str:
    """The second agent beside the first as Markdown tables, one for each family of metrics.

    Raises:
        ValueError: They have no seed of an environment in common.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    lines: dict[str | None, list[list[str]]] = {}
    for before, after in agent_pairs(finished, first, second):
        row = next(iter(before.values()))
        family = families.family_of(row["metrics"])
        own = [row["env_id"], f"`{row['task']}`", *_differences(before, after, family)]
        lines.setdefault(family, []).append(own)
    if not lines:
        raise ValueError(f"--agents: {first!r} and {second!r} have no seed in common")
    head = ["environment", "task"]
    return "\n\n".join(_markdown(head, own, family) for family, own in lines.items())


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]], family: str | None) -> str:
    """Lines that begin with the columns of `head` and go on with `_differences`."""
    changes = [f"Δ {part.replace('_', ' ')}" for part in ("score", *_parts(family))]
    whole = [*head, "n", "score", *changes]
    rule = ["---"] * 2 + ["--:"] * (len(whole) - 2)
    return "\n".join(f"| {' | '.join(line)} |" for line in (whole, rule, *lines))


def _differences(before: Rows, after: Rows, family: str | None) -> list[str]:
    """How many seeds two sets of rows have in common, the score of the first there, and how the
    second differs in the score and its parts.
    """
    common = sorted(before.keys() & after.keys())

    def change(key: str) -> str:
        both = (_runs(rows, common, key, family) for rows in (after, before))
        return interval_text(paired_difference(*both))

    score = interval_text(iqm_interval(_runs(before, common, SCORE, family)))
    return [str(len(common)), score, *map(change, (SCORE, *_parts(family)))]


def _parts(family: str | None) -> Sequence[str]:
    return () if family is None else FAMILIES[family].parts


def _apart_from(row: Row, names: Set[str]) -> str:
    """All that has to be alike in two rows that are compared, but for some names. What is None
    counts as not there: a row that is older than a setting does not have it.
    """
    kwargs, settings = (
        {key: value for key, value in row[kind].items() if key not in names and value is not None}
        for kind in ("env_kwargs", "settings")
    )
    return canonical_json([row["suite"], row["env_id"], row["agent"], kwargs, settings])


def _runs(rows: Rows, seeds: Sequence[int], key: str, family: str | None) -> Runs:
    values = {seed: metric_value(rows[seed], key, family) for seed in seeds}
    return {("", ""): {seed: value for seed, value in values.items() if value is not None}}


def _words(settings: Mapping[str, Any], name: str) -> str:
    """Settings as they were typed, behind a name; lists of sites by how many there are."""
    given = {key: value for key, value in settings.items() if key != name and value is not None}
    shown = (
        f"{key}={len(value) if isinstance(value, list) else value}" for key, value in given.items()
    )
    return "".join(f", {one}" for one in shown)


def _shown(value: Any) -> str:
    return MISSING if value is None else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.paired",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    compared = parser.add_mutually_exclusive_group(required=True)
    compared.add_argument("--by", metavar="NAME", help="an argument or a setting")
    compared.add_argument("--agents", nargs=2, metavar=("FIRST", "SECOND"), help="two agents")
    options = parser.parse_args(arguments)
    try:
        rows = read_rows(options.folder / ROWS_FILE)
        print(agents_table(rows, *options.agents) if options.agents else table(rows, options.by))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
