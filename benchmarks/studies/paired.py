"""What one argument or setting changes: `python -m benchmarks.studies.paired DIR --by rehearse`.

Of the rows in DIR those are compared that are alike in everything but NAME, an argument of the
environment or a setting of the agent, seed by seed: prints a Markdown table with the score without
it, or with its default, and the differences in the score and its parts, interquartile means with
95% bootstrap intervals over the seeds that both have.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import families
from benchmarks.report.aggregate import metric_value
from benchmarks.report.estimates import Runs, iqm_interval, paired_difference
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.tables import MISSING, interval_text
from benchmarks.results import ROWS_FILE, Row, canonical_json, read_rows

Rows = Mapping[int, Row]  # by seed


def pairs(rows: Sequence[Row], name: str) -> Iterator[tuple[Any, Rows, Any, Rows]]:
    """Rows without the argument or with its first value, beside those with another value: value
    and rows, then value and rows.

    Args:
        rows: Finished ones.
        name: An argument of the environment, or a setting of the agent.
    """
    alike: dict[str, dict[str, tuple[Any, dict[int, Row]]]] = {}
    for row in rows:
        value = row["env_kwargs"].get(name, row["settings"].get(name))
        _, own = alike.setdefault(_apart_from(row, name), {}).setdefault(
            canonical_json(value), (value, {})
        )
        own[row["seed"]] = row
    for values in alike.values():
        # What is not given, null in JSON, is what the others are compared with.
        (base, before), *others = sorted(values.values(), key=lambda one: one[0] is not None)
        for value, after in others:
            if before.keys() & after.keys():
                yield base, before, value, after


def table(rows: Sequence[Row], name: str) -> str:
    """The comparison as a Markdown table.

    Raises:
        ValueError: No two rows differ in `name` alone.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    found = list(pairs(finished, name))
    if not found:
        raise ValueError(f"--by: no two rows of one seed differ in {name!r} alone")
    family = families.family_of(key for row in finished for key in row["metrics"])
    parts = () if family is None else FAMILIES[family].parts
    words = ["score", *(f"Δ {part.replace('_', ' ')}" for part in parts)]
    head = ["agent", "environment", name, "n", words[0], "Δ score", *words[1:]]
    lines = [head, ["---"] * 2 + ["--:"] * (len(head) - 2)]
    for base, before, value, after in found:
        common = sorted(before.keys() & after.keys())
        row = before[common[0]]
        lines.append(
            [
                f"`{row['agent']}`{_words(row['agent_config'], name)}",
                _words({"horizon": row["env_kwargs"].get("horizon")}, name).strip(", ") or MISSING,
                f"{_shown(base)} → {_shown(value)}",
                str(len(common)),
                interval_text(iqm_interval(_runs(before, common, SCORE, family))),
                *(
                    interval_text(
                        paired_difference(
                            _runs(after, common, key, family), _runs(before, common, key, family)
                        )
                    )
                    for key in (SCORE, *parts)
                ),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _apart_from(row: Row, name: str) -> str:
    """All that has to be alike in two rows that are compared. What is None counts as not there: a
    row that is older than a setting does not have it.
    """
    kwargs, settings = (
        {key: value for key, value in row[kind].items() if key != name and value is not None}
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
    parser.add_argument("--by", required=True, metavar="NAME", help="see above")
    options = parser.parse_args(arguments)
    try:
        print(table(read_rows(options.folder / ROWS_FILE), options.by))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
