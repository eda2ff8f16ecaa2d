"""Which rows can be scored again with other settings of the evaluation, before any is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
from tqdm import tqdm

import envs_registry
from benchmarks.harness.again import Rescoring
from benchmarks.harness.fingerprints import text_hash
from benchmarks.harness.processes import CallError, call_apart
from benchmarks.harness.sources import not_measuring
from benchmarks.harness.specs import cell_spec
from benchmarks.harness.strangers import import_strangers, is_ours, without_agent
from benchmarks.results import (
    Cell,
    Row,
    canonical_json,
    is_elsewhere,
    journal_problem,
    row_problem,
)
from benchmarks.results.resolved import check_environment


class RescoringError(ValueError):
    """A row that cannot be scored again; the message says why."""


def in_words(failed: Sequence[tuple[Row, str]], count: int) -> str:
    """Which rows cannot be scored again, and why; rows with one reason together."""
    reasons: dict[str, list[Row]] = {}
    for row, reason in failed:
        reasons.setdefault(reason, []).append(row)
    lines = [
        f"    {reason}\n" + "\n".join(f"        {Cell.of(row)}  {row['cell'][:12]}" for row in own)
        for reason, own in reasons.items()
    ]
    return "\n".join(
        [
            f"{len(failed)} of {count} rows cannot be scored again, and nothing was written:",
            *lines,
            "put that right, choose other rows by --rows, or score the others by --keep-going",
        ]
    )


def known_problems(
    chosen: Sequence[Rescoring], folder: Path, destination: Path, known: Mapping[str, Row]
) -> list[tuple[Row, str]]:
    """The rows of which it can be told beforehand that they cannot be scored again, and why.

    Args:
        chosen: Edits of rows of `folder`.
        folder: Where their journals are.
        destination: Where the new rows are to go.
        known: The rows that lie there, by cell.
    """
    made: dict[str, str | None] = {}
    found, taken = [], dict(known)
    for one in tqdm(chosen, desc="looked at", unit="row", dynamic_ncols=True):
        row, cell, _ = one
        problem = _row_problem(row, folder)
        there = row if problem else taken.setdefault(cell.id, row)
        if there["edit_sha256"] != row["edit_sha256"]:
            who = f"{destination} has" if cell.id in known else f"{there['cell'][:12]} becomes"
            problem = f"{who} this cell already, of another edit"
        if problem is None:
            group = _apart_from_seed(cell)
            if group not in made:
                made[group] = _problem_apart(one)
            problem = made[group]
        if problem is not None:
            found.append((row, problem))
    return found


def _row_problem(row: Row, folder: Path) -> str | None:
    """What is wrong with a row or its journal."""
    if (problem := row_problem(row)) is not None:
        return problem
    if row["edit_file"] is None:
        return "it has no journal to replay"
    return None if is_elsewhere(row, folder) else journal_problem(row, folder)


def _problem_apart(one: Rescoring) -> str | None:
    """The same as `_environment_problem`, in a process of its own where parts are strangers'."""
    if is_ours(without_agent(one.cell)):
        return _environment_problem(one)
    try:
        problem: str | None = call_apart(_environment_problem, one)
        return problem
    except CallError as error:
        return f"--set: the environment cannot be made with it: {error}"


def _environment_problem(one: Rescoring) -> str | None:
    """Why the environment that measures cannot be made with the settings."""
    try:
        changed: Mapping[str, Any] = one.made_from["set"]
        _check(one.row, changed)
        import_strangers(without_agent(one.cell))
        with closing(gym.make(cell_spec(one.cell, evaluation=True))) as env:
            if "text" in changed:  # files that are not read before something is measured on them
                text_hash(env)
        return None
    except RescoringError as error:
        return str(error)
    except Exception as error:  # environments of strangers may raise anything
        return f"--set: the environment cannot be made with it: {type(error).__name__}: {error}"


def _apart_from_seed(cell: Cell) -> str:
    """What the environments of cells that differ in their seeds alone have in common."""
    arguments = {key: value for key, value in cell.env_kwargs.items() if not key.endswith("seed")}
    return canonical_json([cell.env_id, arguments])


def _check(row: Row, given: Mapping[str, Any]) -> None:
    """Refuse what the row's environment does not take, or what decides the edit."""
    if deciding := not_measuring(row["env_id"], given):
        named = row["env_id"].rpartition(":")[2]
        measuring = next(one.measuring for one in envs_registry.ENVIRONMENTS if one.id == named)
        raise RescoringError(
            f"--set: {deciding[0]} of {named} is none of what is measured of an edit"
            f" ({', '.join(measuring) or 'none'}); for another edit run the suite again"
        )
    try:
        check_environment(row["env_id"], row["env_kwargs"], given, f"--set ({row['task']})")
    except ValueError as error:
        raise RescoringError(str(error)) from error
