"""Writes the table of settings for rows of schema 1: `python -m benchmarks.results.pin_settings
FOLDER [FOLDER ...]`, with the folders that hold them.

It was run on the rows in docs/results, by a version whose agents had the defaults and the tuned
values that the rows were measured with, but for `DEFAULTS_THEN`. It is kept to show where
`schema1.json` comes from: run again after another default has changed, it would give the old rows
another meaning.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import editgym  # noqa: F401 - registers the environments
from agents.catalogue import make_agent
from benchmarks.results.cell import Row, canonical_json
from benchmarks.results.files import ROWS_FILE, finished
from benchmarks.results.migration import MIGRATED_SCHEMA, TABLE, key_of
from benchmarks.results.resolved import resolved_settings
from editgym.paths import whole_file
from envs_registry import environment_spec

# On streams, defaults of the version that the rows were measured with (07378a3), where values tuned
# for the task have taken their place since, for what rows left to them; UltraEdit's step was the
# task's.
DEFAULTS_THEN: Mapping[str, Mapping[str, Any]] = {
    "ultraedit": {"step_size": 1e-3},
    "memit_seq": {"covariance_weight": 100.0},
    "rledit": {"step_learning_rate": 0.02},
    "ppo": {"train_env": {"back_depth": 1, "locality_weight": 8.0}},
}


def ran_with(row: Row) -> dict[str, Any]:
    """The settings in full that a row of schema 1 was measured with."""
    agent, config = row["agent"], row["agent_config"]
    typed = {key: value for key, value in config.items() if key != "reward_calls"}
    spec = environment_spec(row["env_id"], row["env_kwargs"])
    then = DEFAULTS_THEN.get(agent, {})
    if then and row["env_id"] == "LifelongLLMEdit-v0":
        tuned = make_agent(agent, **typed).tuned(spec)  # type: ignore[attr-defined]
        typed = {**{key: then[key] for key in tuned if key in then}, **typed}
    return resolved_settings(agent, typed, row["env_id"], row["env_kwargs"])


def pinned(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of the table: distinct settings, and by place among them who ran with which."""
    places: dict[str, int] = {}
    known: dict[str, list[Any]] = {}
    for row in rows:
        arguments = {
            key: value
            for key, value in row["env_kwargs"].items()
            if key not in ("model_seed", "device")
        }
        config = {key: value for key, value in row["agent_config"].items() if key != "reward_calls"}
        described = (row["env_id"], arguments, row["agent"], config)
        key = key_of(*described)
        if key not in known:
            place = places.setdefault(canonical_json(ran_with(row)), len(places))
            known[key] = [*described, place]
    return {
        "settings": [json.loads(settings) for settings in places],
        "ran_with": list(known.values()),
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


def rows_of_schema_1(folders: Iterable[Path]) -> list[Row]:
    """The finished rows of schema 1 in folders of published rows."""
    rows = (row for folder in folders for row in finished(folder / ROWS_FILE))
    return [row for row in rows if row.get("schema") == MIGRATED_SCHEMA]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results.pin_settings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    rows = rows_of_schema_1(parser.parse_args(arguments).folders)
    table = pinned(rows)
    with whole_file(TABLE) as partial:
        partial.write_text(text_of(table), encoding="utf-8")
    print(f"{len(rows)} rows, {len(table['ran_with'])} agents, {len(table['settings'])} settings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
