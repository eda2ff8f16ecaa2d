"""What a cell of a leaderboard is, what its row holds, and the file that rows are appended to."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

SCHEMA = 1
ROWS_FILE = "results.jsonl"

Row = dict[str, Any]
Status = Literal["finished", "failed", "unsupported"]


def _and_before(*keys: str) -> tuple[str, ...]:
    """Each key, followed by the same quantity measured before the edit."""
    return tuple(name for key in keys for name in (key, f"{key}_before"))


UNLEARNING_METRICS = (
    *_and_before("retain_accuracy", "forget_accuracy", "test_accuracy"),
    "mia_advantage",
    *_and_before("probe_accuracy"),
    "relearn_steps",
    "oracle_gap",
    "weights_changed",
    "weights_changed_norm",
)
BIAS_METRICS = _and_before(
    "general_accuracy",
    "unbiased_accuracy",
    "fped",
    "fned",
    "equalized_odds_gap",
    "worst_group_accuracy",
    "flip_rate",
    "subgroup_auc",
    "bpsn_auc",
    "bnsp_auc",
)
LIFELONG_METRICS = (
    "reliability",
    "reliability_now",
    "forgetting",
    "generalization",
    "portability",
    "locality",
    "locality_near",
    "locality_far",
    "locality_truth",
    "locality_kl",
    "leakage",
    "perplexity_ratio",
    "capability",
    "tf_efficacy",
    "tf_generalization",
    "tf_specificity",
    "first_k_reliability",
    "sites_per_edit",
    "harmonic_mean",
)
METRIC_KEYS = (*UNLEARNING_METRICS, *BIAS_METRICS, *LIFELONG_METRICS)
CURVE_KEYS = ("retention",)
TIME_KEYS = ("train_s", "edit_s", "eval_s", "edits_per_s")

# What depends on the machine and the checkout, not on the cell.
_NOT_COMPARED = frozenset({"time", "hardware", "versions", "git", "peak_memory_bytes"})


class ResultsError(ValueError):
    """A file of rows that cannot be used: another schema, or a damaged line."""


def canonical_json(value: Any) -> str:
    """JSON that is the same text for the same value: sorted keys, no blanks, strict numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Cell:
    """One run of one agent: the unit that is run, skipped, failed and validated.

    Attributes:
        suite: Name of the suite.
        env_id: Gymnasium id.
        env_kwargs: Keyword arguments of the environment, JSON-able; `task` and `model_seed` among
            them.
        agent: Catalogue name, or `package.module:Class`.
        agent_config: Keyword arguments of the agent and, under `reward_calls`, its budget: a
            different budget is a different cell.
        seed: The agent's seed.
    """

    suite: str
    env_id: str
    env_kwargs: Mapping[str, Any]
    agent: str
    agent_config: Mapping[str, Any]
    seed: int

    @property
    def id(self) -> str:
        """SHA-256 (hexadecimal) of the cell's canonical JSON."""
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()

    @property
    def task(self) -> str | None:
        """Name of the task, where the environment takes one."""
        return self.env_kwargs.get("task")

    @property
    def reward_calls(self) -> int | None:
        """Budget of reward evaluations for `learn`; None where the task has none: nobody searches
        there.
        """
        return self.agent_config.get("reward_calls")

    @property
    def agent_arguments(self) -> dict[str, Any]:
        """What the agent's constructor gets."""
        return {key: value for key, value in self.agent_config.items() if key != "reward_calls"}

    @classmethod
    def of(cls, row: Row) -> Cell:
        """The cell that `row` belongs to."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def __str__(self) -> str:
        return f"{self.env_id} · {self.task} · {self.agent} · seed {self.seed}"


@dataclass(frozen=True)
class Measurement:
    """What the harness measured in one cell; everything but `status` may be missing.

    Attributes:
        status: `finished`, `failed`, or `unsupported` (the agent does not do this task).
        access: What the agent may look at.
        metrics: Test metrics by leaderboard key.
        curves: `retention`: pairs of (age in edits, reliability at that age).
        time: Seconds `train_s`, `edit_s`, `eval_s`, and `edits_per_s`.
        reward_calls: Reward evaluations that learning took.
        peak_memory_bytes: Peak resident memory of the process, or peak allocated memory of the CUDA
            device.
        journal: The journal file's bytes.
        records: The bytes of the file of per-edit records; None where there are none.
        error: Why there is no result; None when there is one.
    """

    status: Status
    access: str | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    time: Mapping[str, float] = field(default_factory=dict)
    reward_calls: int | None = None
    peak_memory_bytes: int | None = None
    journal: bytes | None = None
    records: bytes | None = None
    error: str | None = None


def build_row(cell: Cell, measurement: Measurement, provenance: Mapping[str, Any]) -> Row:
    """The row of `cell`: every field and every metric key is there, null where it is missing.

    Args:
        cell: The cell.
        measurement: What was measured.
        provenance: `versions`, `hardware` and `git` of the process that measured.

    Raises:
        ValueError: A metric, curve or time has a name that the leaderboard does not know, or is not
            finite.
    """
    journal = measurement.journal
    return {
        "schema": SCHEMA,
        "cell": cell.id,
        **asdict(cell),
        "task": cell.task,
        "access": measurement.access,
        "status": measurement.status,
        "error": measurement.error,
        "metrics": _complete("metric", measurement.metrics, METRIC_KEYS),
        "curves": _complete("curve", measurement.curves, CURVE_KEYS),
        "time": _complete("time", measurement.time, TIME_KEYS),
        "reward_calls": measurement.reward_calls,
        "peak_memory_bytes": measurement.peak_memory_bytes,
        "edit_file": None if journal is None else f"edits/{cell.id}.safetensors",
        "edit_sha256": None if journal is None else hashlib.sha256(journal).hexdigest(),
        **{key: provenance[key] for key in ("versions", "hardware", "git")},
    }


def records_file(cell_id: str) -> str:
    """Where a cell's per-edit records lie beside its row, one JSON object a line; not every task
    has such records.
    """
    return f"records/{cell_id}.jsonl"


def read_rows(path: Path) -> list[Row]:
    """The last row of every cell, in the order in which the cells first appear; no file is no rows.

    A last line without its line break was torn by a crash and is dropped.

    Raises:
        ResultsError: A row has another `schema`, or a line that is not the torn last one is no JSON
            object.
    """
    if not path.exists():
        return []
    rows: dict[str, Row] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        row = _parse(line, f"{path}, line {number}")
        rows[row["cell"]] = row
    return list(rows.values())


def rows_in(*folders: Path) -> list[Row]:
    """The rows of one or more folders; a cell that several have counts once, by the last of them.

    Raises:
        FileNotFoundError: A folder has none.
        ResultsError: As `read_rows`.
    """
    found: dict[str, Row] = {}
    for folder in folders:
        rows = read_rows(folder / ROWS_FILE)
        if not rows:
            raise FileNotFoundError(
                f"no rows in {folder / ROWS_FILE}: run a suite with --out {folder} first"
            )
        found.update((row["cell"], row) for row in rows)
    return list(found.values())


def append_row(path: Path, row: Row) -> None:
    """Append `row` so that it survives a crash of the machine; a torn last line is cut off first.

    Raises:
        OSError: The file cannot be written.
        ValueError: The row holds a number that strict JSON does not have.
    """
    line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    with path.open("a+b") as file:
        _cut_torn_line(file)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def finished(path: Path) -> list[Row]:
    """Every line of a file that `append_row` wrote, whatever it holds; a torn last one is left
    out.
    """
    return (
        [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
    )


def rows_agree(a: Row, b: Row) -> bool:
    """Whether two rows say the same: all but `time`, `hardware`, `versions`, `git` and
    `peak_memory_bytes`.
    """
    return canonical_json(_compared(a)) == canonical_json(_compared(b))


def _compared(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in _NOT_COMPARED}


def _complete(what: str, values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """`values` with null under the missing ones of `keys`."""
    for name, value in values.items():
        if name not in keys:
            raise ValueError(f"unknown {what} {name!r}: the leaderboard knows {', '.join(keys)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(
                f"{what} {name!r} is {value}: it must be finite, or None where there is no such"
                " thing"
            )
    return {key: values.get(key) for key in keys}


def _parse(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ResultsError(
            f"{where} is not JSON ({error}): delete that line and run its cell again"
        ) from error
    if not isinstance(row, dict) or row.get("schema") != SCHEMA:
        schema = row.get("schema") if isinstance(row, dict) else None
        raise ResultsError(
            f"{where} has schema {schema!r}, but this version reads schema {SCHEMA}: "
            "write to another folder, or use the version of editgym that wrote it"
        )
    return row


def _cut_torn_line(file: BinaryIO) -> None:
    """End the file at its last line break, or a new row would be glued to half of an old one."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
