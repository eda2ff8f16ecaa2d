"""What attacks recover of every agent's edits: `python -m benchmarks.studies.attacks DIR`.

Prints a Markdown table of the finished unlearning rows in DIR, a line for each agent of an
environment: accuracies after the edit, the balanced accuracy that the best constant on the
forgotten class's logit reaches, and the share that each attack has back of what the network that
never saw the class lacks. Interquartile means with 95% bootstrap intervals over seeds; rows that
were measured before there were attacks are left out, and counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report.aggregate import metric_value
from benchmarks.report.estimates import Interval, iqm_interval
from benchmarks.report.families import UNLEARNING
from benchmarks.report.tables import MISSING, number
from benchmarks.results import ROWS_FILE, Row, canonical_json, read_rows
from editgym.metrics.recovery import WORST

# What stands in the table's columns, and by which metrics.
COLUMNS: Mapping[str, str] = {
    "retain": "retain_accuracy",
    "forget": "forget_accuracy",
    "best constant": "logit_attack_accuracy",
    "logit": "logit_attack_recovered",
    "few images": "few_image_relearning_recovered",
    "8 bits": "rounding_8bit_recovered",
    "4 bits": "rounding_4bit_recovered",
    "features": "feature_cka_recovered",
    "membership": "mia_signed_recovered",
    "worst": WORST,
}


def table(rows: Sequence[Row]) -> str:
    """The table, and a line that says how many rows have no attacks.

    Args:
        rows: Rows of any suite.

    Raises:
        ValueError: No finished row has attacks.
    """
    finished = [row for row in rows if row["status"] == "finished"]
    known = [row for row in finished if row["metrics"].get(WORST) is not None]
    if not known:
        raise ValueError(f"no finished row has {WORST}: run a suite of unlearning tasks")
    groups: dict[str, list[Row]] = {}
    for row in known:
        groups.setdefault(_group(row), []).append(row)
    head = ["task", "agent", "n", *COLUMNS]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    lines += [_line(group) for group in groups.values()]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    older = sum(row["metrics"].get("forget_accuracy") is not None for row in finished) - len(known)
    return text + (f"\n\n{older} rows have no attacks." if older else "")


def _group(row: Row) -> str:
    """What rows of one line have in common."""
    kwargs = {key: value for key, value in row["env_kwargs"].items() if key != "model_seed"}
    return canonical_json([row["env_id"], kwargs, row["agent"], row["settings"]])


def _line(rows: Sequence[Row]) -> list[str]:
    first = rows[0]
    world = first["env_id"].partition("-")[0]
    return [
        f"{first['task']}, {world}",
        f"`{first['agent']}`",
        str(len(rows)),
        *(_shown(rows, key) for key in COLUMNS.values()),
    ]


def _shown(rows: Sequence[Row], key: str) -> str:
    """A metric's interval; how many rows have it where some do not."""
    values = {row["seed"]: metric_value(row, key, UNLEARNING.name) for row in rows}
    known = {seed: value for seed, value in values.items() if value is not None}
    if not known:
        return MISSING
    text = _interval(iqm_interval({("", ""): known}))
    return text if len(known) == len(values) else f"{text} ({len(known)})"


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return MISSING
    if interval.low is None or interval.high is None:
        return number(interval.estimate)
    return f"{number(interval.estimate)} [{number(interval.low)}, {number(interval.high)}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.attacks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        print(table(read_rows(options.folder / ROWS_FILE)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
