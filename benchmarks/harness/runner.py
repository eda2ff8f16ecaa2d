"""Runs many cells: one after the other, in processes, or on a Ray cluster. Only the caller's
process writes.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter, deque
from collections.abc import Generator, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from tqdm import tqdm

from benchmarks.harness import ray_cluster
from benchmarks.harness.agent_files import changed_files
from benchmarks.harness.isolation import TIME_LIMIT, Isolated
from benchmarks.harness.measure import Outcome, run_cell
from benchmarks.harness.storing import RunnerError, only_writer
from benchmarks.harness.strangers import is_ours, module_hashes
from benchmarks.harness.unfinished import Unfinished, kept_folder
from benchmarks.report import families
from benchmarks.report.brief import WIDTH
from benchmarks.results import ROWS_FILE, Cell, Row
from benchmarks.results.rows import agent_module

# Neither is run again: there is nothing to gain from an agent that says it does not do a task.
_SETTLED = ("finished", "unsupported")
_LONGEST = 1_000_000.0  # seconds; the system's clock of waits ends at 24 days


@dataclass(frozen=True)
class Execution:
    """How cells are executed; every way gives the same rows.

    Attributes:
        jobs: Number of cells at a time on this machine, each in processes of its own.
        ray_address: Address of a Ray cluster (`auto`, `local`, `ray://host:10001`), used instead of
            `jobs`.
        gpus_per_cell: Share of a GPU that Ray reserves for each cell.
        time_limit: Seconds that a cell may take; one that takes longer has failed.
    """

    jobs: int = 1
    ray_address: str | None = None
    gpus_per_cell: float = 0.0
    time_limit: float = TIME_LIMIT

    def check(self) -> None:
        """Raise `ValueError` or `RunnerError` where this cannot work, before anything is run."""
        if self.jobs < 1:
            raise ValueError(f"jobs must be 1 or more, got {self.jobs}")
        if not 0 <= self.gpus_per_cell < math.inf:
            raise ValueError(f"gpus_per_cell must be 0 or more, got {self.gpus_per_cell}")
        if self.gpus_per_cell and self.ray_address is None:
            raise ValueError(
                f"gpus_per_cell is {self.gpus_per_cell}, and only Ray reserves GPUs: give --ray"
                " ADDRESS too, or leave it out"
            )
        if not 0 < self.time_limit <= _LONGEST:
            raise ValueError(
                f"time limit must be greater than 0 and up to {_LONGEST:,.0f} seconds, got"
                f" {self.time_limit}"
            )
        if self.ray_address is not None:
            ray_cluster.import_ray()

    def outcomes(
        self, cells: Sequence[Cell], folder: Path | None = None
    ) -> Generator[Outcome, None, None]:
        """The outcomes of `cells`, in the order in which they are finished.

        Args:
            cells: The cells.
            folder: Keeps what an interrupted edit on this machine goes on from; None keeps nothing.
        """
        if self.ray_address is not None:
            yield from ray_cluster.outcomes(
                cells, self.ray_address, self.gpus_per_cell, self.time_limit
            )
        else:
            yield from _here(cells, min(self.jobs, len(cells)), self.time_limit, folder)


def run_cells(cells: Sequence[Cell], folder: Path, execution: Execution | None = None) -> list[Row]:
    """Run the cells that have no result in `folder` yet, or one of other files of the agent's than
    are here now, and return the rows of all of `cells`.

    Each row is on disk as soon as its cell is done, so an interrupted run is resumed by the same
    call.

    Raises:
        ValueError: A part of a cell stands in a script or notebook.
        ResultsError: `folder` holds rows of another schema, or a damaged file.
        RunnerError: Another run is writing to `folder`, or somebody else has meanwhile; Ray is
            asked for and not installed; or at the end a cell has no row.
        OSError: `folder` cannot be written.
    """
    execution = execution or Execution()
    execution.check()
    for cell in cells:
        cell.check_modules()
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Row] = []
    failures: set[str] = set()
    with only_writer(folder) as store:
        before = store.rows()
        settled = [row for row in before if row["status"] in _SETTLED]
        stale = _stale(settled, cells)
        done = {row["cell"] for row in settled} - stale.keys()
        waiting = [cell for cell in cells if cell.id not in done]
        # Who may do anything to the folder could leave there what another's edit goes on from.
        alone = all(map(is_ours, (*cells, *map(Cell.of, before))))
        kept = folder if alone else None
        bar = tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="cell", ncols=_width())
        with bar, closing(execution.outcomes(waiting, kept)) as outcomes:
            for row, names in stale.values():
                bar.write(f"run again, since {', '.join(names)} is another now: {Cell.of(row)}")
            for agent, count in _of_other_modules(settled, done & {c.id for c in cells}).items():
                bar.write(
                    f"{agent}: {count} rows were measured with another version of its module, and"
                    " are kept: they have a line of their own in tables. To measure them again,"
                    " delete their lines, or give another --out"
                )
            for outcome in outcomes:
                store.add(outcome.row, outcome.journal, outcome.records)
                if not outcome.goes_on:
                    Unfinished(folder, outcome.row["cell"]).forget()
                made.append(outcome.row)
                _report(outcome, bar, failures)
        # A cell that failed now, in the place of a row of other files, has failed.
        rows = {row["cell"]: row for row in (*store.rows(), *made)}
    if missing := [cell for cell in cells if cell.id not in rows]:
        raise RunnerError(
            f"{len(missing)} of {len(cells)} cells have no row in {folder / ROWS_FILE}, the first"
            f" of them {missing[0]}: run the same command again"
        )
    wanted = {cell.id for cell in cells}
    return [row for cell, row in rows.items() if cell in wanted]


def _stale(settled: Sequence[Row], cells: Sequence[Cell]) -> dict[str, tuple[Row, list[str]]]:
    """By cell, the rows that are of other files of the agent's than those that are here now, and
    the names of these.
    """
    wanted = {cell.id for cell in cells}
    return {
        row["cell"]: (row, names)
        for row in settled
        if row["cell"] in wanted and (names := changed_files(row))
    }


def _of_other_modules(settled: Sequence[Row], kept: Set[str]) -> Counter[str]:
    """How many rows that are kept are of another version of the agent's own module than is here, by
    agent.
    """
    here: dict[str, str | None] = {}
    found = Counter[str]()
    for row in settled:
        if row["cell"] not in kept or (known := agent_module(row)) is None:
            continue
        module, then = known
        if module not in here:
            here[module] = module_hashes(Cell.of(row)).get(module)
        if here[module] not in (then, None):
            found[row["agent"]] += 1
    return found


def _report(outcome: Outcome, bar: tqdm, failures: set[str]) -> None:
    """Tell what became of a cell; where it failed in one of `failures`, without the traceback."""
    if outcome.traceback is not None:
        seen = outcome.traceback in failures
        told = f"{outcome.row['error']} (as above)" if seen else outcome.traceback
        bar.write(f"FAILED {Cell.of(outcome.row)}\n{told}")
        failures.add(outcome.traceback)
    metrics = outcome.row["metrics"]
    reached = families.score(metrics, families.family_of(metrics))
    told = "" if reached is None else f"{reached:.3f} "  # first, since the end may be cut
    bar.set_postfix_str(f"{told}{Cell.of(outcome.row)}", refresh=False)
    bar.update()


def _width() -> int:
    """Columns of a line that tells how far the run is: of a narrow terminal all, of any other, and
    of a file, as many as the report takes.
    """
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def _here(
    cells: Sequence[Cell], jobs: int, time_limit: float, folder: Path | None
) -> Generator[Outcome, None, None]:
    """Run cells on this machine, `jobs` at a time; when the generator is closed, by an error or
    Ctrl-C as well, nothing goes on.
    """
    waiting, finished = deque(cells), SimpleQueue[Outcome | BaseException]()
    places = [Isolated(time_limit) for _ in range(jobs)]

    def work(place: Isolated) -> None:
        try:
            while waiting:
                cell = waiting.popleft()
                finished.put(
                    run_cell(cell, place, None if folder is None else kept_folder(cell, folder))
                )
        except IndexError:  # another one has taken the last cell
            return
        except BaseException as error:
            finished.put(error)

    threads = [Thread(target=work, args=(place,), daemon=True) for place in places]
    try:
        for thread in threads:
            thread.start()
        for _ in cells:
            outcome = finished.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
    finally:
        waiting.clear()
        for place in places:
            place.interrupt()
        for thread in threads:
            thread.join()
        for place in places:
            place.close()
