"""The harness's half of a cell: what a journal does on test data, replayed on a fresh network.

It knows no agent. It imports the modules of suite, environment and task, and of what these are
given, but not the agent's: whatever the agent has done to its own process ends there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from benchmarks.harness.fingerprints import fingerprints
from benchmarks.harness.journals import check_journal
from benchmarks.harness.machine import Timer, single_thread
from benchmarks.harness.specs import cell_spec
from benchmarks.harness.strangers import import_strangers, without_agent
from benchmarks.results import Cell, canonical_json, records_lines
from editgym.envs.protocol import edit_env, is_stream
from editgym.metrics.evaluation import Evaluation
from editgym.weights.journal.journal import EditJournal


@dataclass(frozen=True)
class Replay:
    """A journal, replayed on a fresh network.

    Attributes:
        evaluation: What it does on test data.
        fingerprints: Model, data and files that it was evaluated on.
        seconds: How long the evaluation took.
        steps: How many steps of the episode count: all of a stream's, else those with an edit.
    """

    evaluation: Evaluation
    fingerprints: Mapping[str, Any]
    seconds: float
    steps: int


@dataclass(frozen=True)
class Evaluated:
    """What a row says of a replay, JSON values all.

    Attributes:
        steps: How many steps of the episode count: all of a stream's, else those that have an edit
            by the journal's file.
        edits: How many edits that is: a step of a stream makes several.
        metrics: Test metrics by leaderboard key.
        curves: Curves by leaderboard key, as they will be read back.
        records: The file of per-edit records; None where there are none.
        fingerprints: Model, data and files that it was evaluated on.
        seconds: How long the evaluation took.
    """

    steps: int
    edits: int
    metrics: Mapping[str, float | None]
    curves: Mapping[str, Any]
    records: str | None
    fingerprints: Mapping[str, Any]
    seconds: float


def evaluate_journal(cell: Cell, journal_file: Path, access: str | None = None) -> Replay:
    """What a journal of the cell's episode does on test data, replayed on a fresh network.

    Args:
        cell: The cell.
        journal_file: The journal.
        access: The access of the agent that made it, which decides what may stand in it; None asks
            nothing of it.

    Raises:
        JournalError: The file is no journal of the cell's network.
        ForbiddenEditError: It holds what the access does not allow.
        gymnasium.error.UnregisteredEnv: The modules of suite, environment and task do not register
            the environment.
    """
    import_strangers(without_agent(cell))
    with closing(gym.make(_spec(cell))) as env:
        env.reset(seed=cell.seed)
        journal = EditJournal.load(journal_file)
        if access is not None:
            check_journal(env, journal, access)
        with Timer(cell) as timer:
            evaluation = edit_env(env).evaluate(journal)
        found = fingerprints(env, cell.env_kwargs, journal)
        steps = edit_env(env).episode_length if is_stream(env) else journal.steps
        return Replay(evaluation, found, timer.seconds, steps)


def evaluated(cell: Cell, journal_file: Path, access: str | None) -> Evaluated:
    """What a row says of a journal; see `evaluate_journal`.

    Raises:
        ValueError, TypeError: A curve or a record is no JSON value.
    """
    with single_thread():
        replay = evaluate_journal(cell, journal_file, access)
    evaluation = replay.evaluation
    return Evaluated(
        replay.steps,
        _edits(evaluation.records) or replay.steps,
        evaluation.metrics,
        json.loads(canonical_json(evaluation.curves)),
        records_lines(evaluation.records).decode() if evaluation.records else None,
        replay.fingerprints,
        replay.seconds,
    )


def _edits(records: Sequence[Mapping[str, Any]]) -> int:
    """How many edits records tell of: an edit that is asked in several formats has several."""
    return len({record.get("edit", place) for place, record in enumerate(records)})


def _spec(cell: Cell) -> EnvSpec:
    try:
        return cell_spec(cell, evaluation=True)
    except gym.error.UnregisteredEnv as error:
        raise gym.error.UnregisteredEnv(
            f"{error} The process that evaluates does not import the agent's module: name the"
            f" environment with its own, package.module:{cell.env_id}"
        ) from error
