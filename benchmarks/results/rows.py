"""What a row holds: a cell, what was measured in it, and where."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.results.cell import Cell, Row, canonical_json

SCHEMA = 2
CURVE_KEYS = ("retention",)
TIME_KEYS = ("train_s", "edit_s", "eval_s", "edits_per_s")
# Journals up to this size are published beside their rows, larger ones by their hash alone: a
# low-rank edit takes kilobytes, a whole network megabytes.
SHIPPED_BYTES = 64 * 1024

# What every row has that was ever written; later versions have `records_sha256` and `modules` too.
FIELDS = (
    "cell",
    "access",
    "status",
    "error",
    "metrics",
    "curves",
    "time",
    "reward_calls",
    "edit_file",
    "edit_sha256",
    "edit_bytes",
    "fingerprints",
    "versions",
    "hardware",
    "row_sha256",
)

# Among the fingerprints; rows of earlier versions have none.
AGENT_FILES = "agent_files"
# Every machine that runs cells has these installed.
OWN_PACKAGES = frozenset({"editgym", "agents", "benchmarks", "envs_registry"})

Status = Literal["finished", "failed", "unsupported"]
# Of two rows of one cell the one whose status comes first is kept.
FINISHED_FIRST: tuple[Status, ...] = ("finished", "unsupported", "failed")

# What depends on the machine and the checkout, not on the cell; the row that a row was made from;
# and the hash over it.
_NOT_COMPARED = frozenset(
    {
        "time",
        "hardware",
        "versions",
        "git",
        "modules",
        "peak_memory_bytes",
        "rescored_from",
        "row_sha256",
    }
)


@dataclass(frozen=True)
class Measurement:
    """What the harness measured in one cell; everything but `status` may be missing.

    Attributes:
        status: `finished`, `failed`, or `unsupported` (the agent does not do this task).
        access: What the agent may look at.
        metrics: Test metrics by leaderboard key.
        curves: `retention`: pairs of (age in edits, reliability at that age).
        time: Seconds `train_s`, `edit_s`, `eval_s`, and `edits_per_s`. Of an edit that was
            interrupted and gone on with, `edit_s` is what its parts took up to their last
            checkpoints, and the last part whole.
        reward_calls: Reward evaluations that learning took.
        peak_memory_bytes: Peak resident memory of the process, or peak allocated memory of the CUDA
            device.
        journal: The journal file's bytes.
        records: The bytes of the file of per-edit records; None where there are none.
        fingerprints: SHA-256 of the `model`, of the `data` that it is evaluated on, of the `files`
            that the environment's arguments name, and of the `agent_files` that the agent's
            settings name.
        error: Why there is no result; None when there is one.
    """

    status: Status
    access: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    time: Mapping[str, float] = field(default_factory=dict)
    reward_calls: int | None = None
    peak_memory_bytes: int | None = None
    journal: bytes | memoryview | None = None
    records: bytes | None = None
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def build_row(cell: Cell, measurement: Measurement, provenance: Mapping[str, Any]) -> Row:
    """The row of `cell`; every field is there, null where it is missing, and the metrics are those
    that were measured, whatever their names.

    Args:
        cell: The cell.
        measurement: What was measured.
        provenance: `versions`, `hardware`, `git` and `modules` of the process that measured.

    Raises:
        ValueError: A metric is not finite, or a curve or time has a name that the leaderboard does
            not know.
    """
    journal = measurement.journal
    row = {
        "schema": SCHEMA,
        "cell": cell.id,
        "suite": cell.suite,
        "env_id": cell.env_id,
        "env_kwargs": dict(cell.env_kwargs),
        "task": cell.task,
        "agent": cell.agent,
        "agent_config": dict(cell.agent_config),
        "settings": dict(cell.resolved),
        "budget": {"reward_calls": cell.reward_calls},
        "seed": cell.seed,
        "access": measurement.access,
        "status": measurement.status,
        "error": measurement.error,
        "metrics": _finite("metric", measurement.metrics),
        "curves": _complete("curve", measurement.curves, CURVE_KEYS),
        "time": _complete("time", measurement.time, TIME_KEYS),
        "reward_calls": measurement.reward_calls,
        "peak_memory_bytes": measurement.peak_memory_bytes,
        "edit_file": None if journal is None else f"edits/{cell.id}.safetensors",
        "edit_sha256": None if journal is None else hashlib.sha256(journal).hexdigest(),
        "edit_bytes": None if journal is None else len(journal),
        "records_sha256": (
            None if measurement.records is None else hashlib.sha256(measurement.records).hexdigest()
        ),
        "fingerprints": {
            key: measurement.fingerprints.get(key)
            for key in ("model", "data", "text", "files", AGENT_FILES)
        },
        **{key: provenance[key] for key in ("versions", "hardware", "git")},
        "modules": provenance.get("modules", {}),
    }
    return {**row, "row_sha256": row_hash(row)}


def agent_module(row: Row) -> tuple[str, str] | None:
    """The module that an agent by import path was written in, and the SHA-256 (hexadecimal) of its
    file. None where no hash is known, and of editgym's own agents, of which `git` tells more.
    """
    module, path, _ = row["agent"].partition(":")
    found = row.get("modules", {}).get(module)
    if not path or found is None or module.partition(".")[0] in OWN_PACKAGES:
        return None
    return module, found


def records_file(cell_id: str) -> str:
    """Where a cell's per-edit records lie beside its row, one JSON object a line; not every task
    has such records.
    """
    return f"records/{cell_id}.jsonl"


def records_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of the file of a row's per-edit records.

    Raises:
        ValueError: A record holds a number that strict JSON does not have.
    """
    return "".join(
        json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n" for record in records
    ).encode()


def row_hash(row: Row) -> str:
    """SHA-256 (hexadecimal) of a row's canonical JSON, but for the field that holds this hash."""
    content = {key: value for key, value in row.items() if key != "row_sha256"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def rows_agree(a: Row, b: Row) -> bool:
    """Whether two rows say the same: all but `time`, `hardware`, `versions`, `git`, `modules`,
    `peak_memory_bytes`, `rescored_from`, and the hash over these.
    """
    return not differing_fields(a, b)


def differing_fields(a: Row, b: Row) -> list[str]:
    """The fields in which two rows do not say the same; see `rows_agree`. Hashes of records and of
    the agent's files that one of them lacks, as rows of earlier versions do, are no difference.
    """
    if any(row["fingerprints"].get(AGENT_FILES) is None for row in (a, b)):
        a, b = _without_agent_files(a), _without_agent_files(b)
    missing = {"records_sha256"} - (a.keys() & b.keys())
    return [
        key
        for key in dict.fromkeys((*a, *b))
        if key not in _NOT_COMPARED | missing
        and (key not in a or key not in b or canonical_json(a[key]) != canonical_json(b[key]))
    ]


def _without_agent_files(row: Row) -> Row:
    known = {key: value for key, value in row["fingerprints"].items() if key != AGENT_FILES}
    return {**row, "fingerprints": known}


def _finite(what: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, none of which may be an infinite number or none at all."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{what} {name!r} is {value}: it must be finite, or None where there is no such"
                " thing"
            )
    return dict(values)


def _complete(what: str, values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """`values` with null under the missing ones of `keys`."""
    for name in values:
        if name not in keys:
            raise ValueError(f"unknown {what} {name!r}: the leaderboard knows {', '.join(keys)}")
    finite = _finite(what, values)
    return {key: finite.get(key) for key in keys}
