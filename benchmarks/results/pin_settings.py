"""Writes the table of settings for rows of schema 1: `python -m benchmarks.results.pin_settings
FOLDER [FOLDER ...]`, with the folders that hold them.

It was run once, on the rows in docs/results, by a version whose agents had the defaults and the
tuned values that the rows were measured with. It is kept to show where `schema1.json` comes from:
run again after a default has changed, it would give the old rows another meaning.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import editgym  # noqa: F401 - registers the environments
from benchmarks.results.cell import Row, canonical_json
from benchmarks.results.files import ROWS_FILE, finished
from benchmarks.results.migration import MIGRATED_SCHEMA, TABLE, key_of
from benchmarks.results.resolved import resolved_settings
from editgym.paths import whole_file


def pinned(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of the table: distinct settings, and by place among them who ran with which."""
    places: dict[str, int] = {}
    ran_with: dict[str, list[Any]] = {}
    for row in rows:
        arguments = {
            key: value
            for key, value in row["env_kwargs"].items()
            if key not in ("model_seed", "device")
        }
        config = {key: value for key, value in row["agent_config"].items() if key != "reward_calls"}
        described = (row["env_id"], arguments, row["agent"], config)
        key = key_of(*described)
        if key not in ran_with:
            settings = resolved_settings(row["agent"], config, row["env_id"], arguments)
            place = places.setdefault(canonical_json(settings), len(places))
            ran_with[key] = [*described, place]
    return {
        "settings": [json.loads(settings) for settings in places],
        "ran_with": list(ran_with.values()),
    }


def text_of(table: dict[str, Any]) -> str:
    """The table as JSON, an entry a line, so that a difference can be read."""
    parts = (
        f'"{name}": [\n'
        + ",\n".join(json.dumps(entry, sort_keys=True) for entry in entries)
        + "\n]"
        for name, entries in table.items()
    )
    return "{" + ",\n".join(parts) + "}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results.pin_settings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    rows = [
        row
        for folder in options.folders
        for row in finished(folder / ROWS_FILE)
        if row.get("schema") == MIGRATED_SCHEMA
    ]
    table = pinned(rows)
    with whole_file(TABLE) as partial:
        partial.write_text(text_of(table), encoding="utf-8")
    print(f"{len(rows)} rows, {len(table['ran_with'])} agents, {len(table['settings'])} settings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
