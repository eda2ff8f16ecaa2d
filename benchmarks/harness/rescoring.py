"""Scores journals again, with other settings of the evaluation: a new metric, scorer or prompt
format costs an evaluation, not a run.

The rows go to another folder, with copies of their journals, so that `report` and `validate` take
it as they take any; each names the row that it was made from. The edit stays what it was: a setting
that would change the network or the data that were edited is refused. What can be known of a row
before it is replayed is known of all rows before the first one is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from agents.command_line import typed_value
from benchmarks.harness.again import Rescoring, row_again
from benchmarks.harness.evaluation import Evaluated
from benchmarks.harness.isolation import evaluated_apart
from benchmarks.harness.rescorable import RescoringError, in_words, known_problems
from benchmarks.harness.storing import Store, check_is_folder, only_writer
from benchmarks.harness.validation import fingerprint_differences
from benchmarks.results import (
    ROWS_FILE,
    Cell,
    Row,
    is_elsewhere,
    read_rows,
)


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
    rows: Sequence[Row],
    folder: Path,
    destination: Path,
    settings: Sequence[Setting],
    keep_going: bool = False,
) -> Rescored:
    """Score the journals of finished rows again.

    Every row is on disk as soon as it is measured: the same call goes on from there.

    Args:
        rows: Rows of `folder`.
        folder: Where their journals are.
        destination: Where the new rows go, another folder.
        settings: What is measured otherwise.
        keep_going: Whether the others are scored where some rows cannot be.

    Raises:
        ValueError: No finished row takes the settings, or both folders are one.
        ResultsError: The rows of `destination` cannot be read.
        RescoringError: Rows cannot be scored again, all of them named with the reason: their
            environment does not take a setting or its value, one decides the edit itself, a row was
            changed, its journal is not the one that was measured, or the destination has the cell
            of another edit.
        RunnerError: Another process writes to `destination`, or it is a file.
        OSError: `destination` cannot be written.
    """
    if destination.resolve() == folder.resolve():
        raise ValueError(f"--out must be another folder than {folder}: its rows stay as they are")
    check_is_folder(destination)
    chosen = _chosen(rows, settings)
    before = {row["cell"]: row for row in read_rows(destination / ROWS_FILE)}
    failed = known_problems(chosen, folder, destination, before)
    if failed and not keep_going:
        raise RescoringError(in_words(failed, len(chosen)))
    hopeless = {row["cell"] for row, _ in failed}
    added: list[Row] = []
    elsewhere: list[Row] = []
    there = 0
    destination.mkdir(parents=True, exist_ok=True)
    with only_writer(destination) as store:
        known = {row["cell"]: row for row in store.rows()}
        for one in tqdm(chosen, unit="row", dynamic_ncols=True):
            row, cell, _ = one
            if row["cell"] in hopeless:
                continue
            if cell.id in known:  # known_problems has seen that it is of the same edit
                there += 1
            elif is_elsewhere(row, folder):
                elsewhere.append(row)
            else:
                try:
                    known[cell.id] = _rescore(one, folder, store)
                    added.append(known[cell.id])
                except RescoringError as error:
                    failed.append((row, str(error)))
    return Rescored(added, there, elsewhere, failed)


def _chosen(rows: Sequence[Row], settings: Sequence[Setting]) -> list[Rescoring]:
    """The edits of the finished rows that some setting is for.

    Raises:
        ValueError: There is none.
    """
    chosen = []
    already = False
    for row in rows:
        given = {one.key: one.value for one in settings if one.task in (None, row["task"])}
        if row["status"] != "finished" or not given:
            continue
        if (one := Rescoring.of(row, given)) is not None:
            chosen.append(one)
        else:
            already = True
    if already and not chosen:
        asked = ", ".join(f"{one.key}={one.value}" for one in settings)
        raise ValueError(
            f"--set: no finished row is to be measured otherwise: they have {asked} already"
        )
    if not chosen:
        tasks = ", ".join(dict.fromkeys(str(row["task"]) for row in rows))
        raise ValueError(
            f"--set: no finished row is to be measured otherwise; the rows are of {tasks}"
        )
    return chosen


def _rescore(one: Rescoring, folder: Path, store: Store) -> Row:
    """Replay the row's journal as the cell measures it, and write the new row with its files."""
    row, cell, made_from = one
    found = _replayed(row, cell, folder)
    journal = (folder / row["edit_file"]).read_bytes()
    try:
        again = row_again(row, cell, journal, found, made_from)
    except (ValueError, TypeError) as error:  # a stranger's metric may be no JSON value
        raise RescoringError(f"what was measured cannot be written: {error}") from error
    store.add(again, journal, None if found.records is None else found.records.encode())
    return again


def _replayed(row: Row, cell: Cell, folder: Path) -> Evaluated:
    """What the row's journal does as `cell` measures it, on the network and the data of the row."""
    try:
        found = evaluated_apart(cell, folder / row["edit_file"], None)
    except Exception as error:  # metrics and environments of strangers may raise anything
        raise RescoringError(f"cannot be replayed: {type(error).__name__}: {error}") from error
    edited = {name: row["fingerprints"].get(name) for name in ("model", "data")}
    if changed := fingerprint_differences(edited, found.fingerprints):
        raise RescoringError(f"the settings change what was edited: {'; '.join(changed)}")
    return found
