"""Runs many cells: one after the other, in processes, or on a Ray cluster. Only the caller's
process writes.
"""

from __future__ import annotations

import importlib
import math
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Any

from tqdm import tqdm

from benchmarks.harness.agent_files import changed_files
from benchmarks.harness.isolation import TIME_LIMIT, Isolated, run_isolated
from benchmarks.harness.measure import Outcome, failed_outcome, run_cell
from benchmarks.harness.storing import RunnerError, only_writer
from benchmarks.harness.strangers import carried_modules, find_modules_in, module_hashes
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
            _import_ray()

    def outcomes(self, cells: Sequence[Cell]) -> Generator[Outcome, None, None]:
        """The outcomes of `cells`, in the order in which they are finished."""
        if self.ray_address is not None:
            yield from _on_ray(cells, self.ray_address, self.gpus_per_cell, self.time_limit)
        else:
            yield from _here(cells, min(self.jobs, len(cells)), self.time_limit)


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
    with only_writer(folder) as store:
        settled = [row for row in store.rows() if row["status"] in _SETTLED]
        stale = _stale(settled, cells)
        done = {row["cell"] for row in settled} - stale.keys()
        waiting = [cell for cell in cells if cell.id not in done]
        bar = tqdm(total=len(cells), initial=len(cells) - len(waiting), unit="cell", ncols=_width())
        with bar, closing(execution.outcomes(waiting)) as outcomes:
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
                made.append(outcome.row)
                _report(outcome, bar)
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


def _report(outcome: Outcome, bar: tqdm) -> None:
    if outcome.traceback is not None:
        bar.write(f"FAILED {Cell.of(outcome.row)}\n{outcome.traceback}")
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


def _here(cells: Sequence[Cell], jobs: int, time_limit: float) -> Generator[Outcome, None, None]:
    """Run cells on this machine, `jobs` at a time; when the generator is closed, by an error or
    Ctrl-C as well, nothing goes on.
    """
    waiting, finished = deque(cells), SimpleQueue[Outcome | BaseException]()
    places = [Isolated(time_limit) for _ in range(jobs)]

    def work(place: Isolated) -> None:
        try:
            while waiting:
                finished.put(run_cell(waiting.popleft(), place))
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


def _on_ray(
    cells: Sequence[Cell], address: str, gpus_per_cell: float, time_limit: float
) -> Generator[Outcome, None, None]:
    """Runs the cells on a cluster; one whose worker or node died is run once more."""
    ray = _import_ray()
    with _connected(ray, address, cells):
        # Not Ray's own retries: it starts a task again without end that took too much memory.
        task = ray.remote(num_cpus=1, num_gpus=gpus_per_cell, max_retries=0)(_run_elsewhere)
        here = os.getcwd(), list(sys.path)
        running = {task.remote(cell, *here, time_limit): cell for cell in cells}
        tried_again: set[str] = set()
        while running:
            (reference,), _ = ray.wait(list(running), num_returns=1)
            cell = running.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                if _died(ray, error) and cell.id not in tried_again:
                    tried_again.add(cell.id)
                    running[task.remote(cell, *here, time_limit)] = cell
                else:
                    yield failed_outcome(cell, f"{type(error).__name__}: {error}")


@contextmanager
def _connected(ray: ModuleType, address: str, cells: Sequence[Cell]) -> Iterator[None]:
    """A connection to a cluster whose nodes find what the cells need.

    Raises:
        RunnerError: This process is connected already, or what the cells need cannot be sent.
        OSError: There is no cluster at the address.
    """
    if ray.is_initialized():
        raise RunnerError(
            "this process is connected to Ray already, and nodes are told at the beginning what"
            " cells need: call ray.shutdown() first, or run without --ray"
        )
    try:
        try:
            ray.init(address=address, log_to_driver=False, runtime_env=_runtime_env(cells))
        except ray.exceptions.RayError as error:
            raise RunnerError(f"Ray at {address}: {error}") from error
        yield
    finally:
        ray.shutdown()


def _died(ray: ModuleType, error: Exception) -> bool:
    """Whether a cell had no chance to tell what it came to: its process or node is gone, or took
    its result along.
    """
    names = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError")
    return isinstance(error, tuple(getattr(ray.exceptions, name) for name in names))


def _run_elsewhere(
    cell: Cell, directory: str, folders: Sequence[str], time_limit: float
) -> Outcome:
    """Run a cell in a process that was not started here: relative paths lead where they lead here,
    and modules are found where they are found here, if these folders are there too.
    """
    if os.path.isdir(directory):
        os.chdir(directory)
    find_modules_in(folders)
    return run_isolated(cell, time_limit)


def _runtime_env(cells: Sequence[Cell]) -> dict[str, Any]:
    """What a node has to be given beside the cells: where data lie and networks are kept, and the
    modules of strangers' parts.
    """
    names = ("EDITGYM_DATA", "EDITGYM_CACHE")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    modules = [str(place) for place in carried_modules(cells)]
    # Ray takes an empty list for a list with one module without a name.
    return {"env_vars": variables, **({"py_modules": modules} if modules else {})}


def _import_ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RunnerError(
            f"--ray needs Ray, but it is not there ({error}): pip install 'editgym[scale]'"
        ) from error
