"""What attacks reach after every agent's edits: `python -m benchmarks.studies.attacks DIR`.

Prints Markdown tables of the finished rows in DIR, a line for each agent of an environment. Of
unlearning: accuracies after the edit, the balanced accuracy that the best constant on the forgotten
class's logit reaches, and the share that each attack has back of what the network that never saw
the class lacks. Of backdoors: clean accuracy, and how often the trigger works. Interquartile means
with 95% bootstrap intervals over seeds; unlearning rows that were measured before there were
attacks are left out, and counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.report.aggregate import metric_value
from benchmarks.report.estimates import iqm_interval
from benchmarks.report.families import BACKDOOR, UNLEARNING, family_of
from benchmarks.report.tables import MISSING, interval_text
from benchmarks.results import ROWS_FILE, Row, canonical_json, read_rows
from editgym.metrics.recovery import WORST

# By family, what stands in its table's columns, and by which metrics. A row without the last one
# has not been attacked.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    UNLEARNING.name: {
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
    },
    BACKDOOR.name: {
        "clean before": "clean_accuracy_before",
        "clean": "clean_accuracy",
        "triggered, read right": "triggered_accuracy",
        "attack's success before": "attack_success_rate_before",
        "attack's success": "attack_success_rate",
    },
}


def tables(rows: Sequence[Row]) -> str:
    """The tables, and a line that says how many rows have not been attacked.

    Args:
        rows: Rows of any suite.

    Raises:
        ValueError: No finished row has been attacked.
    """
    families: dict[str, list[Row]] = {}
    for row in rows:
        found = family_of(key for key, value in row["metrics"].items() if value is not None)
        if row["status"] == "finished" and found is not None and found in COLUMNS:
            families.setdefault(found, []).append(row)
    parts = []
    for name, own in families.items():
        last = list(COLUMNS[name].values())[-1]
        attacked = [row for row in own if row["metrics"].get(last) is not None]
        parts += [_table(attacked, name)] if attacked else []
        if len(attacked) < len(own):
            parts.append(f"{len(own) - len(attacked)} rows of {name} have no {last}.")
    if not any(part.startswith("|") for part in parts):
        raise ValueError("no finished row has attacks: run the suite attacks or backdoor")
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], family: str) -> str:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_group(row), []).append(row)
    head = ["task", "agent", "n", *COLUMNS[family]]
    lines = [head, ["---", "---", *["--:"] * (len(head) - 2)]]
    lines += [
        _line(group, family, _told_by(group[0], [other[0] for other in groups.values()]))
        for group in groups.values()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _group(row: Row) -> str:
    """What rows of one line have in common."""
    kwargs = {key: value for key, value in row["env_kwargs"].items() if key != "model_seed"}
    return canonical_json([row["env_id"], kwargs, row["agent"], row["settings"]])


def _told_by(row: Row, firsts: Sequence[Row]) -> str:
    """What tells a line's agent from its namesakes on the same task and world: arguments and
    settings in which they differ; nothing where it has no namesake.

    Args:
        row: A row of the line.
        firsts: One row of each line.
    """
    where = ("env_id", "task", "agent")
    namesakes = [one for one in firsts if all(one[key] == row[key] for key in where)]
    return "".join(
        f", {name}={canonical_json(value)}"
        for kind in ("settings", "env_kwargs")
        for name, value in sorted(row[kind].items())
        if name != "model_seed" and any(one[kind].get(name) != value for one in namesakes)
    )


def _line(rows: Sequence[Row], family: str, told_by: str) -> list[str]:
    first = rows[0]
    world = first["env_id"].partition("-")[0]
    return [
        f"{first['task']}, {world}",
        f"`{first['agent']}`{told_by}",
        str(len(rows)),
        *(_shown(rows, key, family) for key in COLUMNS[family].values()),
    ]


def _shown(rows: Sequence[Row], key: str, family: str) -> str:
    """A metric's interval; how many rows have it where some do not."""
    values = {row["seed"]: metric_value(row, key, family) for row in rows}
    known = {seed: value for seed, value in values.items() if value is not None}
    if not known:
        return MISSING
    text = interval_text(iqm_interval({("", ""): known}))
    return text if len(known) == len(values) else f"{text} ({len(known)})"


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
        print(tables(read_rows(options.folder / ROWS_FILE)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
