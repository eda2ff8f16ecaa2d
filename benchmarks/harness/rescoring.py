"""Scores journals again, with other settings of the evaluation: a new metric, scorer or prompt
format costs an evaluation, not a run.

The rows go to another folder, with copies of their journals, so that `report` and `validate` take
it as they take any; each names the row that it was made from. The edit stays what it was: a setting
that would change the network or the data that were edited is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

import envs_registry
from agents.command_line import typed_value
from benchmarks.harness.evaluation import Replay, evaluate_journal
from benchmarks.harness.machine import single_thread
from benchmarks.harness.provenance import provenance
from benchmarks.harness.validation import fingerprint_differences
from benchmarks.results import (
    ROWS_FILE,
    Cell,
    Measurement,
    Row,
    append_row,
    build_row,
    canonical_json,
    is_elsewhere,
    journal_problem,
    read_rows,
    records_file,
    records_lines,
    row_hash,
    row_problem,
)
from benchmarks.results.resolved import check_environment
from editgym.paths import whole_file


class RescoringError(ValueError):
    """A row that cannot be scored again; the message says why."""


@dataclass(frozen=True)
class Setting:
    """An argument of the environment, for the rows of one task, or of all where there is none."""

    task: str | None
    key: str
    value: Any


@dataclass(frozen=True)
class Rescored:
    """What became of the rows that were asked for.

    Attributes:
        added: Rows that were written now.
        there: How many had been written before.
        elsewhere: Rows whose journals are published by their hash alone, and not here.
        failed: Rows that could not be scored again, and why.
    """

    added: Sequence[Row]
    there: int
    elsewhere: Sequence[Row]
    failed: Sequence[tuple[Row, str]]

    def __str__(self) -> str:
        others = {
            "scored before": self.there,
            "left out, whose journals are published by their SHA-256 alone": len(self.elsewhere),
            "failed": len(self.failed),
        }
        counted = [f"{count} {what}" for what, count in others.items() if count]
        return ", ".join([f"rows: {len(self.added)} scored again", *counted])


def read_settings(pairs: Sequence[str]) -> list[Setting]:
    """Settings as they are typed: `KEY=VALUE` for all rows, `TASK.KEY=VALUE` for those of a task.

    Raises:
        ValueError: A text has another form, or a value is a number that JSON does not have.
    """
    found = []
    for pair in pairs:
        described, equals, value = pair.partition("=")
        task, _, key = described.rpartition(".")
        if not equals or not key.isidentifier():
            raise ValueError(f"--set must be KEY=VALUE or TASK.KEY=VALUE, got {pair!r}")
        found.append(Setting(task or None, key, typed_value(value, f"--set {described}")))
    if not found:
        raise ValueError("--set: say what is to be measured otherwise, such as scorer=contains")
    return found


def rescore_rows(
    rows: Sequence[Row], folder: Path, destination: Path, settings: Sequence[Setting]
) -> Rescored:
    """Score the journals of finished rows again.

    Every row is on disk as soon as it is measured: the same call goes on from there.

    Args:
        rows: Rows of `folder`.
        folder: Where their journals are.
        destination: Where the new rows go, another folder.
        settings: What is measured otherwise.

    Raises:
        ValueError: No finished row takes the settings, an environment does not take one of them,
            one decides the edit itself, or both folders are one.
        ResultsError: The rows of `destination` cannot be read.
        RescoringError: Another process writes to `destination`.
        OSError: `destination` cannot be written.
    """
    if destination.resolve() == folder.resolve():
        raise ValueError(f"--out must be another folder than {folder}: its rows stay as they are")
    chosen = _chosen(rows, settings)
    added: list[Row] = []
    elsewhere: list[Row] = []
    failed: list[tuple[Row, str]] = []
    there = 0
    destination.mkdir(parents=True, exist_ok=True)
    with _only_writer(destination):
        known = {row["cell"]: row for row in read_rows(destination / ROWS_FILE)}
        for row, cell in tqdm(chosen, unit="row", dynamic_ncols=True):
            try:
                if (before := known.get(cell.id)) is not None:
                    _check_same_edit(row, before, destination)
                    there += 1
                elif is_elsewhere(row, folder):
                    elsewhere.append(row)
                else:
                    known[cell.id] = _rescore(row, cell, folder, destination)
                    added.append(known[cell.id])
            except RescoringError as error:
                failed.append((row, str(error)))
    return Rescored(added, there, elsewhere, failed)


def _chosen(rows: Sequence[Row], settings: Sequence[Setting]) -> list[tuple[Row, Cell]]:
    """The finished rows that some setting is for, each with the cell that it becomes.

    Raises:
        ValueError: There is none, or a setting is not for its environment.
    """
    chosen = []
    for row in rows:
        given = {one.key: one.value for one in settings if one.task in (None, row["task"])}
        if row["status"] != "finished" or not given:
            continue
        _check(row, given)
        cell = Cell.of(row)
        other = replace(cell, env_kwargs={**cell.env_kwargs, **given})
        if other.id != cell.id:  # else it was measured so
            chosen.append((row, other))
    if not chosen:
        tasks = ", ".join(dict.fromkeys(str(row["task"]) for row in rows))
        raise ValueError(
            f"--set: no finished row is to be measured otherwise; the rows are of {tasks}"
        )
    return chosen


def _check(row: Row, given: Mapping[str, Any]) -> None:
    """Refuse what the row's environment does not take, or what decides the edit."""
    named = row["env_id"].rpartition(":")[2]
    own = [one.measuring for one in envs_registry.ENVIRONMENTS if one.id == named]
    for key in given:
        if own and key not in own[0]:
            offered = ", ".join(own[0]) or "none"
            raise ValueError(
                f"--set: {key} of {named} is none of what is measured of an edit ({offered}); for"
                " another edit run the suite again"
            )
    check_environment(row["env_id"], row["env_kwargs"], given, f"--set ({row['task']})")


def _rescore(row: Row, cell: Cell, folder: Path, destination: Path) -> Row:
    """Replay the row's journal as `cell` measures it, and write the new row with its files."""
    replay = _replayed(row, cell, folder)
    journal = (folder / row["edit_file"]).read_bytes()
    records = replay.evaluation.records
    try:
        measurement = Measurement(
            "finished",
            row["access"],
            replay.evaluation.metrics,
            json.loads(canonical_json(replay.evaluation.curves)),
            {**row["time"], "eval_s": replay.seconds},
            row["reward_calls"],
            row["peak_memory_bytes"],
            journal,
            records_lines(records) if records else None,
            replay.fingerprints,
        )
        found = build_row(cell, measurement, provenance(cell))
    except (ValueError, TypeError) as error:  # a stranger's metric may be no JSON value
        raise RescoringError(f"what was measured cannot be written: {error}") from error
    before = row["env_kwargs"]
    given = {key: value for key, value in cell.env_kwargs.items() if before.get(key) != value}
    made_from = {**{key: row[key] for key in ("cell", "row_sha256", "git")}, "set": given}
    found = {**found, "rescored_from": made_from}
    found["row_sha256"] = row_hash(found)
    _store(found, journal, measurement.records, destination)
    return found


def _replayed(row: Row, cell: Cell, folder: Path) -> Replay:
    """What the row's journal does as `cell` measures it, on the network and the data of the row."""
    for problem in (row_problem(row), journal_problem(row, folder)):
        if problem is not None:
            raise RescoringError(problem)
    if row["edit_file"] is None:
        raise RescoringError("it has no journal to replay")
    try:
        with single_thread():
            replay = evaluate_journal(cell, folder / row["edit_file"])
    except Exception as error:  # metrics and environments of strangers may raise anything
        raise RescoringError(f"cannot be replayed: {type(error).__name__}: {error}") from error
    edited = {name: row["fingerprints"].get(name) for name in ("model", "data")}
    if changed := fingerprint_differences(edited, replay.fingerprints):
        raise RescoringError(f"the settings change what was edited: {'; '.join(changed)}")
    return replay


def _store(row: Row, journal: bytes, records: bytes | None, folder: Path) -> None:
    """The row last: it never names a file that is not there."""
    files = {row["edit_file"]: journal}
    if records is not None:
        files[records_file(row["cell"])] = records
    for name, content in files.items():
        with whole_file(folder / name) as partial:
            partial.write_bytes(content)
    append_row(folder / ROWS_FILE, row)


def _check_same_edit(row: Row, there: Row, destination: Path) -> None:
    """Raise `RescoringError` where the destination has the cell already, of another edit."""
    if row["edit_sha256"] != there["edit_sha256"]:
        raise RescoringError(
            f"{destination} has this cell already, of another edit: give another folder"
        )


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Two that append to one file would cut each other's lines; the lock dies with its process."""
    try:
        with FileLock(folder / f"{ROWS_FILE}.lock", timeout=0):
            yield
    except Timeout as error:
        raise RescoringError(f"another process writes to {folder}: wait for it") from error
