"""Cells in processes: one in which the agent learns and edits, and another one, which has never
imported an agent, in which the journal that it has saved is evaluated.

A cell with a module of a stranger's has both for itself, and so has one on a GPU, where the first
must be gone before the second finds memory. Others are served by the same two processes one after
the other, as long as an agent leaves its process as it found it (`untouched`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks.harness.evaluation import Evaluated, evaluated
from benchmarks.harness.learning import Stage, learn_and_edit
from benchmarks.harness.machine import is_on_cuda
from benchmarks.harness.measure import Outcome, run_cell
from benchmarks.harness.processes import TimeLimitError, Worker
from benchmarks.harness.strangers import is_ours, without_agent
from benchmarks.harness.untouched import State
from benchmarks.results import Cell

# A day: what takes longer has most likely come to a halt.
TIME_LIMIT = 86_400.0
_AS_BEFORE = "as before"


class Isolated:
    """Runs the halves of cells, one cell at a time, in processes; a `Place`.

    Args:
        time_limit: Seconds that a cell may take.
    """

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self._limit, self._deadline = time_limit, float("inf")
        self._kept: dict[str, Worker] = {}
        self._running: Worker | None = None
        self._closed, self._lock = False, Lock()

    def learn_and_edit(
        self, cell: Cell, folder: Path, kept: Path | None = None
    ) -> Generator[Stage, None, None]:
        """Let the agent learn and edit, stage by stage; the time of the cell begins.

        Raises:
            CallError: It failed, died, took too long, or its process said what it was not asked.
        """
        self._deadline = time.monotonic() + self._limit
        keep, as_before = _may_share(cell), False
        with self._worker("agent", keep) as worker:
            with self._limited():
                stages = worker.stages(_staged, cell, folder, kept, keep, deadline=self._deadline)
                for name, value in stages:
                    if name == _AS_BEFORE:
                        as_before = value
                    else:
                        yield name, value
            if keep and as_before and worker.silent:
                self._kept["agent"] = worker

    def evaluate(self, cell: Cell, journal: Path, access: str | None) -> Evaluated:
        """Evaluate the journal, within what is left of the cell's time.

        Raises:
            CallError: It failed, died, or took too long.
        """
        keep = _may_share(without_agent(cell))
        with self._worker("evaluation", keep) as worker:
            with self._limited():
                found = worker.call(_evaluated, cell, journal, access, deadline=self._deadline)
            if keep:
                self._kept["evaluation"] = worker
        return Evaluated(**found)

    def interrupt(self) -> None:
        """End the call that is running, and every later one, from any thread."""
        with self._lock:
            self._closed = True
            if self._running is not None:
                self._running.end()

    def close(self) -> None:
        """End the processes that are kept."""
        for worker in self._kept.values():
            worker.kill()
        self._kept.clear()

    @contextmanager
    def _worker(self, name: str, keep: bool) -> Iterator[Worker]:
        """The process of this name that is kept, or a new one; ended, unless it is kept again."""
        worker = self._kept.pop(name, None) if keep else None
        # It may have been killed, or spoken, while it had nothing to do.
        if worker is not None and not (worker.alive and worker.silent):
            worker.kill()
            worker = None
        worker = worker or Worker()
        with self._lock:
            self._running = worker
            if self._closed:
                worker.end()
        try:
            yield worker
        finally:
            with self._lock:
                self._running = None
            if self._closed or self._kept.get(name) is not worker:
                worker.kill()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        try:
            yield
        except TimeLimitError as error:
            raise TimeLimitError(
                f"there was no end after {self._limit:,.0f} s, the time limit of a cell"
            ) from error


def run_isolated(cell: Cell, time_limit: float = TIME_LIMIT) -> Outcome:
    """Run one cell in processes that it has for itself."""
    with closing(Isolated(time_limit)) as place:
        return run_cell(cell, place)


def evaluated_apart(cell: Cell, journal: Path, access: str | None) -> Evaluated:
    """What a journal does; where a stranger's task or environment computes that, in a process of
    its own, for its module may do anything to the one that reads and writes other rows.

    Args:
        cell: The cell.
        journal: The file.
        access: What the journal's agent was allowed; None where that was checked before.

    Raises:
        CallError: The process of a stranger's parts failed or died.
        ValueError, OSError, RuntimeError, ImportError: The network, the data or a part is not here,
            or the journal is of another network.
    """
    if is_ours(without_agent(cell)):
        return evaluated(cell, journal, access)
    with closing(Isolated()) as place:
        return place.evaluate(cell, journal.absolute(), access)


def _may_share(cell: Cell) -> bool:
    """Whether a process may be used again that has imported the cell's modules."""
    return is_ours(cell) and not is_on_cuda(cell)


def _staged(
    cell: Cell, folder: Path, kept: Path | None, compare: bool
) -> Generator[Stage, None, None]:
    """In the agent's process, the stages; and whether the next agent finds there what this one has
    found.
    """
    state = State() if compare else None
    yield from learn_and_edit(cell, folder, kept, state)
    yield _AS_BEFORE, state is not None and state.is_as_before()


def _evaluated(cell: Cell, journal: Path, access: str | None) -> dict[str, Any]:
    """In the other process."""
    return asdict(evaluated(cell, journal, access))
