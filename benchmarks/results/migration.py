"""Rows of schema 1, read as rows of schema 2.

A row of schema 1 holds what was typed and not what the agent worked with. The committed table
`schema1.json` says it for every row in docs/results: for each environment, agent and what was
typed, the settings in full, as they were when the rows were measured. So a default that changes
later makes new cells, and gives no old row another meaning. `benchmarks.results.pin_settings` wrote
the table.

Such a row has no hash of itself, and often no journal: nothing in it tells whether it was changed.
So the committed `schema1_rows.json` has the SHA-256 of every one that was published, written by
`benchmarks.results.pin_rows`, and others are not read.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results.cell import Cell, Row, canonical_json
from benchmarks.results.rows import SCHEMA

MIGRATED_SCHEMA = 1
TABLE = Path(__file__).with_name("schema1.json")
PUBLISHED = Path(__file__).with_name("schema1_rows.json")

# Arguments of the environment that no agent's settings depend on.
_SEEDS = frozenset({"model_seed", "device"})
# What a migrated row says otherwise than the row of schema 1, or in addition.
_RENAMED = frozenset({"schema", "cell"})
_ADDED = frozenset(
    {
        "settings",
        "budget",
        "edit_bytes",
        "fingerprints",
        "modules",
        "row_sha256",
        "migrated_from",
    }
)


def migrated(row: Row) -> Row:
    """A row of schema 1 as one of schema 2, under its cell's new name.

    What was not written down is null: sizes, fingerprints, and the hash of the row itself. A row
    that the table does not know, somebody's own, keeps what was typed for its settings.
    """
    config = dict(row["agent_config"])
    calls = config.pop("reward_calls", None)
    named = {key: row[key] for key in ("suite", "env_id", "env_kwargs", "agent", "seed")}
    settings = _table().get(key_of(row["env_id"], row["env_kwargs"], row["agent"], config), config)
    cell = Cell(**named, agent_config=config, reward_calls=calls, settings=settings)
    return {
        **row,
        "schema": SCHEMA,
        "cell": cell.id,
        "agent_config": config,
        "settings": dict(settings),
        "budget": {"reward_calls": calls},
        "edit_bytes": None,
        "fingerprints": {"model": None, "data": None, "files": None},
        "modules": {},
        "row_sha256": None,
        "migrated_from": MIGRATED_SCHEMA,
    }


def is_published(row: Row) -> bool:
    """Whether a migrated row is what one of the published rows of schema 1 is read as."""
    old = _before_migration(row)
    if measured_sha256(old) not in _published():
        return False
    again = migrated(old)
    made = [*sorted(again.keys() - old.keys()), "agent_config"]
    return all(canonical_json(again[key]) == canonical_json(row[key]) for key in made)


def measured_sha256(old: Row) -> str:
    """SHA-256 (hexadecimal) of all that a row of schema 1 says, but for the name of its cell."""
    content = {key: value for key, value in old.items() if key not in _RENAMED}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _before_migration(row: Row) -> Row:
    """What a migrated row was migrated from, without schema and cell."""
    calls = row["budget"]["reward_calls"]
    config = row["agent_config"] | ({} if calls is None else {"reward_calls": calls})
    old = {key: value for key, value in row.items() if key not in _RENAMED | _ADDED}
    return {**old, "agent_config": config}


def key_of(
    env_id: str, env_kwargs: Mapping[str, Any], agent: str, config: Mapping[str, Any]
) -> str:
    """What the table looks settings up by: all that they depend on, as canonical JSON."""
    arguments = {key: value for key, value in env_kwargs.items() if key not in _SEEDS}
    return canonical_json([env_id, arguments, agent, config])


@functools.cache
def _published() -> frozenset[str]:
    return frozenset(json.loads(PUBLISHED.read_text(encoding="utf-8")))


@functools.cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    """The settings by `key_of`; the file holds each distinct one once."""
    stored = json.loads(TABLE.read_text(encoding="utf-8"))
    settings: list[dict[str, Any]] = stored["settings"]
    return {key_of(*described): settings[place] for *described, place in stored["ran_with"]}
