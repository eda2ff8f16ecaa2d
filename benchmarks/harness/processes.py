"""Processes that work through a list, one item at a time each: one that dies takes down its own
item and no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

# One thread, and no progress bars of agents that would overwrite each other's.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(
    call: Callable[[Item], Result], items: Iterable[Item], jobs: int
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Every item with its finished future, in the order in which they are finished.

    Where the process died, the future's exception is
    `concurrent.futures.process.BrokenProcessPool`. Nothing that was not asked for goes on: when the
    generator is closed, by an error or Ctrl-C as well, its processes are ended.

    Args:
        call: Importable from another process, as are items and results.
        items: What it is called with.
        jobs: Number of processes, 1 or more.
    """
    waiting = iter(items)
    running: dict[Future[Result], tuple[Item, _Worker]] = {}

    def start(worker: _Worker | None) -> None:
        for item in waiting:
            worker = worker or _Worker()
            running[worker.pool.submit(call, item)] = item, worker
            return
        if worker is not None:
            worker.stop()

    with _worker_environment():
        try:
            for _ in range(jobs):
                start(None)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    item, worker = running.pop(future)
                    if isinstance(future.exception(), BrokenProcessPool):
                        worker.stop()
                        start(None)
                    else:
                        start(worker)
                    yield item, future
        finally:
            for _, worker in running.values():
                worker.kill()


class _Worker:
    """A process that runs cells; it ends when its parent does."""

    def __init__(self) -> None:
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would copy the state of PyTorch's threads
        self.pool = ProcessPoolExecutor(1, context, initializer=_follow_parent)
        self._pid = self.pool.submit(os.getpid).result()

    def stop(self) -> None:
        """End the process once it is idle."""
        self.pool.shutdown(wait=False)

    def kill(self) -> None:
        """End the process in the middle of its cell."""
        os.kill(self._pid, signal.SIGTERM)
        self.pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(
        threading.RLock()
    )  # its default is a named semaphore, which a terminated worker leaves behind
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_after_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=exit_after_parent, daemon=True).start()


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Variables that only children see: the libraries that read them do so when they are loaded."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
