"""Measures one cell: an agent learns and edits, and the harness, not the agent, evaluates the
journal it hands in.

The two halves, `learning` and `evaluation`, have nothing in common but the journal's file. Where
they run is the business of a `Place`: each in a process of its own (`isolation`), or both in this
one. What a row says of steps, times, calls and access is what was seen from outside of the agent.
The times are from asking for a stage until it is there, by this process's clock.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from agents.protocol import Access, Unsupported
from benchmarks.harness.agent_files import agent_files, unchanged
from benchmarks.harness.evaluation import Evaluated, evaluated
from benchmarks.harness.evaluation import evaluate_journal as evaluate_journal
from benchmarks.harness.handed_in import handed_in
from benchmarks.harness.learning import STAGES, UNSUPPORTED, Files, Stage, learn_and_edit
from benchmarks.harness.processes import CallError, ProcessDiedError
from benchmarks.harness.provenance import provenance
from benchmarks.harness.specs import cell_spec as cell_spec
from benchmarks.results import AGENT_FILES, Cell, Measurement, Row, build_row
from benchmarks.results.form import check_form
from benchmarks.results.lines import printable
from editgym.checks import is_whole, require
from editgym.envs.metering import RewardMeter


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
        goes_on: Whether what the edit has left behind is worth keeping: it was whole and could not
            be evaluated, or its process was killed.
    """

    row: Row
    journal: bytes | memoryview | None = None
    records: bytes | None = None
    traceback: str | None = None
    goes_on: bool = False


class Place(Protocol):
    """Where the halves of a cell run."""

    def learn_and_edit(
        self, cell: Cell, folder: Path, kept: Path | None = None
    ) -> Generator[Stage, None, None]:
        """What `benchmarks.harness.learning.learn_and_edit` does."""
        ...

    def evaluate(self, cell: Cell, journal: Path, access: str) -> Evaluated:
        """What `benchmarks.harness.evaluation.evaluated` does."""
        ...

    def close(self) -> None:
        """End what it has begun."""
        ...


class Here:
    """Both halves in the caller's process: for tests and debuggers. Nothing is isolated, and there
    is no time limit.
    """

    def learn_and_edit(
        self, cell: Cell, folder: Path, kept: Path | None = None
    ) -> Generator[Stage, None, None]:
        """Let the agent learn and edit."""
        yield from learn_and_edit(cell, folder, kept)

    def evaluate(self, cell: Cell, journal: Path, access: str) -> Evaluated:
        """Evaluate its journal."""
        return evaluated(cell, journal, access)

    def close(self) -> None:
        """There is nothing to end."""


class Seen:
    """What the harness sees of an agent: the stages that it comes to, and how long each took, by
    the clock of this process, from when it was asked for until it was there.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._values: dict[str, Any] = {}

    def watch(self, stages: Generator[Stage, None, None]) -> None:
        """Ask for one stage after the other, until there are no more.

        Raises:
            Unsupported: The agent does not do the task.
            ValueError: They are not the ones that there are.
        """
        expected = iter(STAGES)
        with closing(stages):
            begin = time.perf_counter()
            for name, value in stages:
                self._seconds[name], self._values[name] = time.perf_counter() - begin, value
                if name == UNSUPPORTED:
                    expected = iter(())
                elif name != (due := next(expected, None)):
                    raise ValueError(f"the agent's process is at {name!r}, and {due!r} is next")
                begin = time.perf_counter()
        if UNSUPPORTED in self._values:
            raise Unsupported(self._values[UNSUPPORTED])
        if (missing := next(expected, None)) is not None:
            raise ValueError(f"the agent's process ended before {missing!r}")

    def value(self, stage: str) -> Any:
        """What was told of a stage; None where it was not reached."""
        return self._values.get(stage)

    @property
    def access(self) -> Access | None:
        """The access that the agent has declared; None where it has declared none."""
        access = self.value("made")
        return access if access in get_args(Access) else None

    def seconds(self, *stages: str) -> float:
        """Wall-clock seconds that stages took together."""
        return sum(self._seconds[stage] for stage in stages)


def run_cell(cell: Cell, place: Place | None = None, kept: Path | None = None) -> Outcome:
    """Run one cell with one thread; whatever goes wrong in it is its outcome, not an exception.

    Args:
        cell: The cell.
        place: Where; in this process by default.
        kept: Where an interrupted edit is gone on with; None where there is no such thing.
    """
    seen, trace, goes_on = Seen(), None, False
    try:
        measurement = _measure(cell, place or Here(), seen, kept)
    except Unsupported as reason:
        measurement = Measurement("unsupported", seen.access, error=printable(str(reason)))
    except (Exception, SystemExit) as error:
        measurement, trace = _failure(seen, error)
        goes_on = isinstance(error, ProcessDiedError) or seen.value(STAGES[-1]) is not None
    try:
        row = build_row(cell, measurement, provenance(cell))
        check_form(row)  # or nobody could read any row of the file again
    except (ValueError, TypeError) as error:  # a stranger's metric may be no JSON value
        measurement, trace = _failure(seen, error)
        row = build_row(cell, measurement, provenance(cell))
    return Outcome(row, measurement.journal, measurement.records, trace, goes_on)


def failed_outcome(cell: Cell, error: str) -> Outcome:
    """The outcome of a cell whose process did not live to tell."""
    return Outcome(
        build_row(cell, Measurement("failed", error=error), provenance(cell)), traceback=error
    )


def _failure(seen: Seen, error: BaseException) -> tuple[Measurement, str]:
    text, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    if isinstance(error, CallError):  # what was raised in another process, or became of it
        text, trace = str(error), error.traceback
    return Measurement("failed", seen.access, error=printable(text)), printable(trace)


def _measure(cell: Cell, place: Place, seen: Seen, kept: Path | None) -> Measurement:
    """Evaluates the file, not the object: what is scored is what `validate` will load."""
    with _folder() as folder, ExitStack() as later:
        files, read = Files(Path(folder)), agent_files(cell)
        seen.watch(place.learn_and_edit(cell, Path(folder), kept))
        declared = seen.access
        if declared is None:
            raise ValueError(
                f"access must be one of {', '.join(get_args(Access))}, got {seen.value('made')!r}"
            )
        learning, editing = RewardMeter(files.learning), RewardMeter(files.editing)
        _check_budget(cell, declared, learning.calls)  # before what may take long
        # Made once the agent's processes are gone: they know all names in the folder of both.
        copy = Files(Path(later.enter_context(_folder()))).journal
        journal = handed_in(files.journal, "the agent's journal", copy)
        found = place.evaluate(cell, copy, declared)
        # An edit may see the reward of each step it keeps, or what the step came to; what it asks
        # for beyond that is search, like learning.
        calls = learning.calls + max(0, editing.calls - found.steps)
        _check_budget(cell, declared, calls)
        gradients, edit_s = learning.gradients + editing.gradients, seen.seconds("edited")
        if kept is not None:  # so the agent is editgym's own, and is believed
            edit_s += seen.value("ready")
    return Measurement(
        "finished",
        "gradient" if declared == "reward" and gradients else declared,
        found.metrics,
        curves=found.curves,
        time={
            "train_s": seen.seconds("made", "learned"),
            "edit_s": edit_s,
            "eval_s": found.seconds,
            "edits_per_s": found.edits / edit_s,
        },
        reward_calls=calls,
        peak_memory_bytes=_memory(seen.value("handed in")),
        journal=journal,
        fingerprints={**found.fingerprints, AGENT_FILES: unchanged(read, agent_files(cell))},
        records=None if found.records is None else found.records.encode(),
    )


def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for a while; whatever an agent has made of it is no failure when it goes."""
    return tempfile.TemporaryDirectory(prefix="editgym-cell-", ignore_cleanup_errors=True)


def _memory(told: Any) -> int:
    """The bytes of memory that an agent's process says that it took."""
    possible = is_whole(told) and 0 <= told < 2**63
    require(possible, "peak_memory_bytes", told, "0 or more, a whole number below 2⁶³")
    return int(told)


def _check_budget(cell: Cell, access: str, calls: int) -> None:
    if access == "reward" and cell.reward_calls is not None and calls > cell.reward_calls:
        raise BudgetExceededError(
            f"{cell.agent} asked for {calls:,} rewards, but its budget is"
            f" reward_calls={cell.reward_calls:,}: an agent with access 'reward' must stop by"
            " itself"
        )
