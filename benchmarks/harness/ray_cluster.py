"""Runs cells on a Ray cluster."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

from benchmarks.harness.isolation import run_isolated
from benchmarks.harness.measure import Outcome, failed_outcome
from benchmarks.harness.storing import RunnerError
from benchmarks.harness.strangers import carried_modules, find_modules_in
from benchmarks.results import Cell


def outcomes(
    cells: Sequence[Cell], address: str, gpus_per_cell: float, time_limit: float
) -> Generator[Outcome, None, None]:
    """The outcomes of cells that run on a cluster, in the order in which they are finished; a cell
    whose worker or node died is run once more.

    Args:
        cells: The cells.
        address: Where the cluster is: `auto`, `local`, `ray://host:10001`.
        gpus_per_cell: Share of a GPU that is reserved for each.
        time_limit: Seconds that a cell may take.

    Raises:
        RunnerError: Ray is not installed, this process is connected already, or what the cells need
            cannot be sent.
        OSError: There is no cluster at the address.
    """
    ray = import_ray()
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
    outcome = run_isolated(cell, time_limit)
    # What is mapped into memory there cannot be sent.
    return replace(outcome, journal=None if outcome.journal is None else bytes(outcome.journal))


def _runtime_env(cells: Sequence[Cell]) -> dict[str, Any]:
    """What a node has to be given beside the cells: where data lie and networks are kept, and the
    modules of strangers' parts.
    """
    names = ("EDITGYM_DATA", "EDITGYM_CACHE")
    variables = {name: os.environ[name] for name in names if name in os.environ}
    modules = [str(place) for place in carried_modules(cells)]
    # Ray takes an empty list for a list with one module without a name.
    return {"env_vars": variables, **({"py_modules": modules} if modules else {})}


def import_ray() -> ModuleType:
    """The library.

    Raises:
        RunnerError: It is not installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise RunnerError(
            f"--ray needs Ray, but it is not there ({error}): pip install 'editgym[scale]'"
        ) from error
