"""The agent's half of a cell: it learns, edits, and hands in a journal.

It may run in a process that belongs to the agent. What it hands over is a file, and what the
environments have counted into the meters. It goes on by stages, so that the harness can take their
times by its own clock.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.utils import set_random_seed

from agents.catalogue import agent_class, make_agent
from agents.protocol import Access, Budget, Unsupported
from benchmarks.harness.machine import (
    forget_peak_memory,
    peak_memory_bytes,
    single_thread,
    synchronize,
)
from benchmarks.harness.specs import cell_spec
from benchmarks.harness.strangers import import_strangers
from benchmarks.harness.unfinished import Edit
from benchmarks.harness.untouched import Code, State
from benchmarks.results import Cell
from benchmarks.results.form import ACCESS
from editgym.envs.access import only_offered
from editgym.envs.metering import MeterError, count_into
from editgym.weights.journal.journal import EditJournal

Stage = tuple[str, Any]  # its name, and a JSON value
STAGES = ("imported", "made", "loaded", "learned", "ready", "edited", "handed in")
UNSUPPORTED = "unsupported"

# Black box, but it asks for no reward, and so needs no budget.
_SEARCHES_NOTHING = "no_edit"
_NARROWEST: Access = "reward"


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


def learn_and_edit(
    cell: Cell, folder: Path, kept: Path | None = None, state: State | None = None
) -> Generator[Stage, None, None]:
    """Let a cell's agent learn and edit, and save its journal, stage by stage: nothing is done
    before the next one is asked for. Whoever asks has the clock.

    Args:
        cell: The cell.
        folder: Where its `Files` are.
        kept: Where an interrupted edit is gone on with; None where there is no such thing.
        state: Takes down how the process is before the agent begins.

    Yields:
        The `STAGES`, each with what there is to tell of it: the agent's access once it is `made`,
        once it is `ready` the seconds that went into the edit before it was interrupted, the bytes
        of memory that it took once all is `handed in`, else None. Or, with the reason, that the
        task is `UNSUPPORTED`, and nothing after it.

    Raises:
        MeterError: What counts rewards was replaced, or what was counted was changed.
        TypeError: The agent hands in something else than a journal.
    """
    try:
        yield from _stages(cell, Files(folder), kept, state)
    except Unsupported as reason:
        yield UNSUPPORTED, str(reason)


def _stages(
    cell: Cell, files: Files, kept: Path | None, state: State | None
) -> Generator[Stage, None, None]:
    code, env_id = Code(), cell.env_id.rpartition(":")[2]
    with single_thread():
        with count_into(str(files.learning)):
            with only_offered(_NARROWEST, env_id):  # a module may look around while it is imported
                import_strangers(cell)
                expected = _expected_access(cell)
            yield "imported", None
            with only_offered(expected, env_id):
                agent = make_agent(cell.agent, **cell.agent_config)
            access = _widest(expected, agent.access)
            yield "made", access
            _check_has_budget(cell, access)
            set_random_seed(
                cell.seed
            )  # or an agent that draws from a global generator would depend on the cells before it
            forget_peak_memory(cell)
            with only_offered(access, env_id):
                _load(cell, evaluation=getattr(agent, "learns_nothing", False) is True)
                if state is not None:
                    state.take_down()
                yield "loaded", None
                agent.learn(cell_spec(cell), Budget(reward_calls=cell.reward_calls), cell.seed)
                synchronize(cell)
                yield "learned", None
        with count_into(str(files.editing)), only_offered(access, env_id):
            edit = Edit(agent, cell_spec(cell, evaluation=True), cell.seed, kept)
            with closing(gym.make(edit.spec)) as env:
                if not edit.goes_on:
                    env.reset(seed=cell.seed)
                yield "ready", edit.seconds
                _hand_in(edit.journal(_OneEpisode(env, cell.seed, edit.goes_on)), cell, files)
                yield "edited", None
        if changed := code.changed():
            raise MeterError(
                f"{', '.join(changed)} was replaced while the agent ran: rewards are counted, and"
                " agents watched, there"
            )
        yield "handed in", peak_memory_bytes(cell)


def _expected_access(cell: Cell) -> Access:
    """What the constructor of the agent is offered: what its class declares, if anything."""
    declared: Any = getattr(agent_class(cell.agent), "access", None)
    return declared if declared in ACCESS else _NARROWEST


def _widest(expected: Access, declared: Any) -> Any:
    """What the agent may see: the wider of what its constructor was offered, by its class, and what
    it declares once it is made; what it declares where that is no access.
    """
    return max(expected, declared, key=ACCESS.index) if declared in ACCESS else declared


def _hand_in(journal: object, cell: Cell, files: Files) -> None:
    """Save the journal, as part of the edit: a journal may be a class of the agent's own, which
    makes its entries when they are asked for.
    """
    if not isinstance(journal, EditJournal):
        raise TypeError(
            f"{cell.agent}.edit must return the episode's EditJournal (env.unwrapped.journal),"
            f" got {type(journal).__name__}"
        )
    EditJournal.save(journal, files.journal)
    synchronize(cell)


def _load(cell: Cell, evaluation: bool) -> None:
    """Load, or even train, the network that is edited: that is nobody's learning time. Who learns
    nothing may have no data to learn from.
    """
    with closing(gym.make(cell_spec(cell, evaluation=evaluation))) as env:
        env.reset(seed=cell.seed)


def _check_has_budget(cell: Cell, access: Access) -> None:
    """Raise `ValueError` for a search that nothing would end."""
    if access == "reward" and cell.reward_calls is None and cell.agent != _SEARCHES_NOTHING:
        raise ValueError(
            f"{cell.agent} has access 'reward' and must know its budget, but task {cell.task!r} has"
            " none: give it a row in benchmarks.suites.entry.REWARD_CALLS"
        )


class _OneEpisode(gym.Wrapper):
    """Whatever a reset asks for, it begins the episode that the cell's seed draws, with its goal or
    stream of edits; or goes on with it, where there is something to go on from.

    It is the one that the journal is evaluated on, now and by `validate`.
    """

    def __init__(self, env: gym.Env, seed: int, goes_on: bool) -> None:
        super().__init__(env)
        self._seed, self._goes_on = seed, goes_on

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if self._goes_on:
            return self.env.reset(options=options)
        return self.env.reset(seed=self._seed)
