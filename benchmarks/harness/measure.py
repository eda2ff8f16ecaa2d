"""Measures one cell: an agent learns and edits, and the harness, not the agent, evaluates the
journal it hands in.

The two halves, `learning` and `evaluation`, have nothing in common but the journal's file. Where
they run is the business of a `Place`: each in a process of its own (`isolation`), or both in this
one. What a row says of steps, times, calls and access is what was seen from outside of the agent.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from agents.protocol import Access, Unsupported
from benchmarks.harness.evaluation import Evaluated, evaluated
from benchmarks.harness.evaluation import evaluate_journal as evaluate_journal
from benchmarks.harness.learning import Files, learn_and_edit
from benchmarks.harness.processes import CallError, Say
from benchmarks.harness.provenance import provenance
from benchmarks.harness.specs import cell_spec as cell_spec
from benchmarks.results import Cell, Measurement, Row, build_row
from benchmarks.results.files import check_types
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
    """

    row: Row
    journal: bytes | None = None
    records: bytes | None = None
    traceback: str | None = None


class Place(Protocol):
    """Where the halves of a cell run."""

    def learn_and_edit(self, cell: Cell, folder: Path, say: Say) -> None:
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

    def learn_and_edit(self, cell: Cell, folder: Path, say: Say) -> None:
        """Let the agent learn and edit."""
        learn_and_edit(cell, folder, say)

    def evaluate(self, cell: Cell, journal: Path, access: str) -> Evaluated:
        """Evaluate its journal."""
        return evaluated(cell, journal, access)

    def close(self) -> None:
        """There is nothing to end."""


class Seen:
    """What the harness sees of an agent while it runs: events, and when they arrived."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}
        self._values: dict[str, Any] = {}

    def __call__(self, event: str, value: Any = None) -> None:
        """Take down an event, the first of its name."""
        if event not in self._times:
            self._times[event], self._values[event] = time.perf_counter(), value

    def value(self, event: str) -> Any:
        """What was said with an event; None where there was none."""
        return self._values.get(event)

    @property
    def access(self) -> str | None:
        """The access that the agent has declared; None where it has declared none that there is."""
        access = self.value("access")
        return access if access in get_args(Access) else None

    def seconds(self, begin: str, end: str) -> float:
        """Wall-clock seconds from one event to another."""
        return self._times[end] - self._times[begin]


def run_cell(cell: Cell, place: Place | None = None) -> Outcome:
    """Run one cell with one thread; whatever goes wrong in it is its outcome, not an exception.

    Args:
        cell: The cell.
        place: Where; in this process by default.
    """
    seen, trace = Seen(), None
    try:
        measurement = _measure(cell, place or Here(), seen)
    except Unsupported as reason:
        measurement = Measurement("unsupported", seen.access, error=_printable(str(reason)))
    except (Exception, SystemExit) as error:
        measurement, trace = _failure(seen, error)
    try:
        row = build_row(cell, measurement, provenance(cell))
        check_types(row)  # or nobody could read any row of the file again
    except (ValueError, TypeError) as error:  # a stranger's metric may be no JSON value
        measurement, trace = _failure(seen, error)
        row = build_row(cell, measurement, provenance(cell))
    return Outcome(row, measurement.journal, measurement.records, trace)


def failed_outcome(cell: Cell, error: str) -> Outcome:
    """The outcome of a cell whose process did not live to tell."""
    return Outcome(
        build_row(cell, Measurement("failed", error=error), provenance(cell)), traceback=error
    )


def _failure(seen: Seen, error: BaseException) -> tuple[Measurement, str]:
    text, trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    if isinstance(error, CallError):  # what was raised in another process, or became of it
        text, trace = str(error), error.traceback
    return Measurement("failed", seen.access, error=_printable(text)), _printable(trace)


def _printable(text: str) -> str:
    """A stranger's text, also where it holds halves of characters, which no file takes."""
    return text.encode(errors="backslashreplace").decode()


def _measure(cell: Cell, place: Place, seen: Seen) -> Measurement:
    """Evaluates the file, not the object: what is scored is what `validate` will load."""
    with (
        tempfile.TemporaryDirectory(prefix="editgym-cell-") as folder,
        tempfile.TemporaryDirectory(prefix="editgym-cell-") as unknown_to_the_agent,
    ):
        files = Files(Path(folder))
        place.learn_and_edit(cell, Path(folder), seen)
        if (reason := seen.value("unsupported")) is not None:
            raise Unsupported(reason)
        if (declared := seen.access) is None:
            raise ValueError(
                f"access must be one of {', '.join(get_args(Access))}, got {seen.value('access')!r}"
            )
        learning, editing = RewardMeter(files.learning), RewardMeter(files.editing)
        _check_budget(cell, declared, learning.calls)  # before what may take long
        journal, copy = files.journal.read_bytes(), Files(Path(unknown_to_the_agent)).journal
        copy.write_bytes(journal)
        found = place.evaluate(cell, copy, declared)
        # An edit may see the reward of each step it keeps; what it asks for beyond that is search,
        # like learning.
        calls = learning.calls + max(0, editing.calls - found.steps)
        _check_budget(cell, declared, calls)
        gradients, edit_s = learning.gradients + editing.gradients, seen.seconds("edit", "edited")
    return Measurement(
        "finished",
        "gradient" if declared == "reward" and gradients else declared,
        found.metrics,
        curves=found.curves,
        time={
            "train_s": seen.seconds("learn", "learned"),
            "edit_s": edit_s,
            "eval_s": found.seconds,
            "edits_per_s": found.edits / edit_s,
        },
        reward_calls=calls,
        peak_memory_bytes=seen.value("memory"),
        journal=journal,
        fingerprints=found.fingerprints,
        records=None if found.records is None else found.records.encode(),
    )


def _check_budget(cell: Cell, access: str, calls: int) -> None:
    if access == "reward" and cell.reward_calls is not None and calls > cell.reward_calls:
        raise BudgetExceededError(
            f"{cell.agent} asked for {calls:,} rewards, but its budget is"
            f" reward_calls={cell.reward_calls:,}: an agent with access 'reward' must stop by"
            " itself"
        )
