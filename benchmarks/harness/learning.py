"""The agent's half of a cell: it learns, edits, and hands in a journal.

It may run in a process that belongs to the agent. What it hands over is a file, the events that the
harness is told of, and what the environments have counted into the meters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.utils import set_random_seed

from agents.catalogue import make_agent
from agents.protocol import Access, Agent, Budget, Unsupported
from benchmarks.harness.machine import (
    forget_peak_memory,
    peak_memory_bytes,
    single_thread,
    synchronize,
)
from benchmarks.harness.processes import Say
from benchmarks.harness.specs import cell_spec
from benchmarks.harness.strangers import import_strangers
from benchmarks.harness.untouched import Code, State
from benchmarks.results import Cell
from editgym.envs.access import only_offered
from editgym.envs.metering import MeterError, count_into
from editgym.weights.journal.journal import EditJournal

# Black box, but it asks for no reward, and so needs no budget.
_SEARCHES_NOTHING = "no_edit"


class Files:
    """The files of a cell that is running: its journal, and the meters of its rewards.

    Args:
        folder: Where they are; it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.journal = folder / "journal.safetensors"
        self.learning, self.editing = folder / "learning", folder / "editing"
        for meter in (self.learning, self.editing):
            meter.mkdir(exist_ok=True)


def learn_and_edit(cell: Cell, folder: Path, say: Say, state: State | None = None) -> None:
    """Let a cell's agent learn and edit, and save its journal.

    Args:
        cell: The cell.
        folder: Where its `Files` are.
        say: Is told the `access` that the agent declares; when it begins to `learn`, has `learned`,
            begins to `edit`, has `edited`; how many bytes of `memory` it took; and why the task is
            `unsupported`, where it is.
        state: Takes down how the process is before the agent begins.

    Raises:
        MeterError: What counts rewards was replaced.
        TypeError: The agent hands in something else than a journal.
    """
    files, code = Files(folder), Code()
    with single_thread():
        try:
            import_strangers(cell)
            agent = make_agent(cell.agent, **cell.agent_config)
            access = agent.access
            say("access", access)
            _check_has_budget(cell, access)
            set_random_seed(
                cell.seed
            )  # or an agent that draws from a global generator would depend on the cells before it
            forget_peak_memory(cell)
            with _offering(cell, access, files.learning):
                _load(cell)
                if state is not None:
                    state.take_down()
                _learn(cell, agent, say)
            with _offering(cell, access, files.editing):
                journal = _edit(cell, agent, say)
        except Unsupported as reason:
            say("unsupported", str(reason))
            return
        if changed := code.changed():
            raise MeterError(
                f"{', '.join(changed)} was replaced while the agent ran: rewards are counted there"
            )
        if not isinstance(journal, EditJournal):
            raise TypeError(
                f"{cell.agent}.edit must return the episode's EditJournal (env.unwrapped.journal),"
                f" got {type(journal).__name__}"
            )
        EditJournal.save(journal, files.journal)
        say("memory", peak_memory_bytes(cell))


def _load(cell: Cell) -> None:
    """Load, or even train, the network that is edited: that is nobody's learning time."""
    with closing(gym.make(cell_spec(cell))) as env:
        env.reset(seed=cell.seed)


def _learn(cell: Cell, agent: Agent, say: Say) -> None:
    spec = cell_spec(cell)
    say("learn")
    agent.learn(spec, Budget(reward_calls=cell.reward_calls), cell.seed)
    synchronize(cell)
    say("learned")


def _edit(cell: Cell, agent: Agent, say: Say) -> object:
    with closing(gym.make(cell_spec(cell, evaluation=True))) as env:
        env.reset(seed=cell.seed)
        say("edit")
        journal = agent.edit(_OneEpisode(env, cell.seed))
        synchronize(cell)
        say("edited")
    return journal


@contextmanager
def _offering(cell: Cell, access: Access, meter: Path) -> Iterator[None]:
    """While the context is open, environments offer what the access allows, and count."""
    with count_into(str(meter)), only_offered(access, cell.env_id.rpartition(":")[2]):
        yield


def _check_has_budget(cell: Cell, access: Access) -> None:
    """Raise `ValueError` for a search that nothing would end."""
    if access == "reward" and cell.reward_calls is None and cell.agent != _SEARCHES_NOTHING:
        raise ValueError(
            f"{cell.agent} has access 'reward' and must know its budget, but task {cell.task!r} has"
            " none: give it a row in benchmarks.suites.entry.REWARD_CALLS"
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
