"""Measures one cell: an agent learns and edits, and the harness, not the agent, evaluates the
journal it hands in.
"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.utils import set_random_seed

import editgym  # noqa: F401 - registers the environments
from agents.catalogue import make_agent
from agents.protocol import Agent, Budget, Unsupported
from benchmarks.harness.fingerprints import fingerprints
from benchmarks.harness.machine import (
    Timer,
    forget_peak_memory,
    peak_memory_bytes,
    single_thread,
)
from benchmarks.harness.provenance import provenance
from benchmarks.harness.strangers import import_strangers
from benchmarks.results import Cell, Measurement, Row, build_row, canonical_json, records_lines
from editgym.envs.metering import count_reward_calls
from editgym.envs.protocol import edit_env
from editgym.metrics.evaluation import Evaluation
from editgym.weights.journal.journal import EditJournal
from envs_registry import environment_spec

# Black box, but it asks for no reward, and so needs no budget.
_SEARCHES_NOTHING = "no_edit"


class BudgetExceededError(RuntimeError):
    """An agent asked for more rewards than its budget has."""


@dataclass(frozen=True)
class Outcome:
    """A cell that has been run.

    Attributes:
        row: Its row.
        journal: Its journal file; None where there is no edit.
        records: Its file of per-edit records; None where there are none.
        traceback: Where it failed, for the person at the terminal; None when it did not.
    """

    row: Row
    journal: bytes | None = None
    records: bytes | None = None
    traceback: str | None = None


def cell_spec(cell: Cell, *, evaluation: bool = False) -> EnvSpec:
    """The spec that makes the cell's environment: to learn in, or to edit, evaluate and validate
    in.
    """
    return environment_spec(cell.env_id, cell.env_kwargs, evaluation=evaluation)


def run_cell(cell: Cell) -> Outcome:
    """Run one cell with one thread; whatever goes wrong in it is its outcome, not an exception."""
    access: str | None = None
    trace: str | None = None
    with single_thread():
        try:
            import_strangers(cell)
            agent = make_agent(cell.agent, **cell.agent_config)
            access = agent.access
            measurement = _measure(cell, agent)
        except Unsupported as reason:
            measurement = Measurement("unsupported", access, error=str(reason))
        except (Exception, SystemExit) as error:
            measurement, trace = (
                Measurement("failed", access, error=_one_line(error)),
                traceback.format_exc(),
            )
        try:
            row = build_row(cell, measurement, provenance(cell))
        except (ValueError, TypeError) as error:  # a stranger's metric may be no JSON value
            measurement, trace = (
                Measurement("failed", access, error=_one_line(error)),
                traceback.format_exc(),
            )
            row = build_row(cell, measurement, provenance(cell))
    return Outcome(row, measurement.journal, measurement.records, trace)


def failed_outcome(cell: Cell, error: str) -> Outcome:
    """The outcome of a cell whose process did not live to tell."""
    return Outcome(
        build_row(cell, Measurement("failed", error=error), provenance(cell)), traceback=error
    )


@dataclass(frozen=True)
class Replay:
    """A journal, replayed on a fresh network.

    Attributes:
        evaluation: What it does on test data.
        fingerprints: Model, data and files that it was evaluated on.
        seconds: How long the evaluation took.
    """

    evaluation: Evaluation
    fingerprints: Mapping[str, Any]
    seconds: float


def evaluate_journal(cell: Cell, journal_file: Path) -> Replay:
    """What a journal of the cell's episode does on test data, replayed on a fresh network."""
    import_strangers(cell)
    with closing(gym.make(cell_spec(cell, evaluation=True))) as env:
        env.reset(seed=cell.seed)
        journal = EditJournal.load(journal_file)
        with Timer(cell) as timer:
            evaluation = edit_env(env).evaluate(journal)
        return Replay(evaluation, fingerprints(env, cell.env_kwargs, journal), timer.seconds)


def _measure(cell: Cell, agent: Agent) -> Measurement:
    _check_has_budget(cell, agent)
    set_random_seed(
        cell.seed
    )  # or an agent that draws from a global generator would depend on the cells before it
    forget_peak_memory(cell)
    with closing(gym.make(cell_spec(cell))) as env:
        env.reset(
            seed=cell.seed
        )  # loads, or even trains, the network that is edited: that is nobody's learning time
    with count_reward_calls() as learning, Timer(cell) as train:
        agent.learn(cell_spec(cell), Budget(reward_calls=cell.reward_calls), cell.seed)
    with closing(gym.make(cell_spec(cell, evaluation=True))) as env:
        env.reset(seed=cell.seed)
        with count_reward_calls() as editing, Timer(cell) as edit:
            journal = agent.edit(_OneEpisode(env, cell.seed))
    if not isinstance(journal, EditJournal):
        raise TypeError(
            f"{cell.agent}.edit must return the episode's EditJournal (env.unwrapped.journal), got"
            f" {type(journal).__name__}"
        )
    # An edit may see the reward of each step it keeps; what it asks for beyond that is search, like
    # learning.
    calls = learning.calls + max(0, editing.calls - journal.steps)
    _check_budget(cell, agent, calls)
    saved, replay = _save_and_evaluate(cell, journal)
    evaluation = replay.evaluation
    edits = len(evaluation.records) or journal.steps  # a step of a stream makes several edits
    return Measurement(
        "finished",
        agent.access,
        evaluation.metrics,
        curves=json.loads(canonical_json(evaluation.curves)),  # as the row will be read back
        time={
            "train_s": train.seconds,
            "edit_s": edit.seconds,
            "eval_s": replay.seconds,
            "edits_per_s": edits / edit.seconds,
        },
        reward_calls=calls,
        peak_memory_bytes=peak_memory_bytes(cell),
        journal=saved,
        fingerprints=replay.fingerprints,
        records=records_lines(evaluation.records) if evaluation.records else None,
    )


def _save_and_evaluate(cell: Cell, journal: EditJournal) -> tuple[bytes, Replay]:
    """Evaluates the file, not the object: what is scored is what `validate` will load."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "journal.safetensors"
        journal.save(file)
        return file.read_bytes(), evaluate_journal(cell, file)


def _check_has_budget(cell: Cell, agent: Agent) -> None:
    """Raise `ValueError` for a search that nothing would end."""
    if agent.access == "reward" and cell.reward_calls is None and cell.agent != _SEARCHES_NOTHING:
        raise ValueError(
            f"{cell.agent} has access 'reward' and must know its budget, but task {cell.task!r} has"
            " none: give it a row in benchmarks.suites.entry.REWARD_CALLS"
        )


def _check_budget(cell: Cell, agent: Agent, calls: int) -> None:
    if agent.access == "reward" and cell.reward_calls is not None and calls > cell.reward_calls:
        raise BudgetExceededError(
            f"{cell.agent} asked for {calls:,} rewards, but its budget is"
            f" reward_calls={cell.reward_calls:,}: an agent with access 'reward' must stop by"
            " itself"
        )


class _OneEpisode(gym.Wrapper):
    """Whatever a reset asks for, it begins the episode that the cell's seed draws, with its goal or
    stream of edits.

    It is the one that the journal is evaluated on, now and by `validate`.
    """

    def __init__(self, env: gym.Env, seed: int) -> None:
        super().__init__(env)
        self._seed = seed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=self._seed)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
