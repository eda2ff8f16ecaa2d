"""Count the rewards that are computed, in every process, so that a harness need not believe the
agent.

A meter is a folder, and every process that computes rewards has a file of its own in it, two
numbers that are mapped into memory: nobody waits for a lock of another process, and what a process
has counted stays when it is killed. Processes that are started while a meter is open count into it,
too: forked ones as they are, others by the environment variable `EDITGYM_METERS`. Whoever hands an
environment to another process can also hand over the names of the meters (`meters`, `join`).
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "EDITGYM_METERS"
_COUNTS = struct.Struct("=QQ")


class MeterError(RuntimeError):
    """Rewards were not counted as they had to be."""


class RewardMeter:
    """What was counted into a folder.

    Args:
        folder: The meter's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: tuple[int, int] | None = None

    @property
    def calls(self) -> int:
        """Candidate edits whose reward was computed."""
        return self._counts()[0]

    @property
    def gradients(self) -> int:
        """How many of these were computed with a gradient."""
        return self._counts()[1]

    def keep(self) -> None:
        """Take down the counts as they are: the folder is about to go."""
        self._kept = self._counts()

    def _counts(self) -> tuple[int, int]:
        if self._kept is not None:
            return self._kept
        found = [(0, 0)]
        for file in self._folder.iterdir():
            content = file.read_bytes()
            if len(content) == _COUNTS.size:  # a file is empty while its process makes it
                found.append(_COUNTS.unpack(content))
        calls, gradients = map(sum, zip(*found, strict=True))
        return calls, gradients


class _Counters:
    """This process's own file in every meter that is open."""

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = list(folders)
        self._files: dict[str, mmap.mmap] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def add(self, calls: int, gradients: int) -> None:
        if self._process != os.getpid():  # forked: the parent's files are the parent's
            self.__init__(self.folders)  # type: ignore[misc]
        with self._lock:
            for folder in self.folders:
                with suppress(FileNotFoundError):  # a meter that was read and closed meanwhile
                    file = self._files.get(folder) or self._opened(folder)
                    before = _COUNTS.unpack_from(file)
                    _COUNTS.pack_into(file, 0, before[0] + calls, before[1] + gradients)

    def _opened(self, folder: str) -> mmap.mmap:
        path = os.path.join(folder, f"{self._process}-{uuid.uuid4().hex}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, _COUNTS.size)
            self._files[folder] = mmap.mmap(descriptor, _COUNTS.size)
        finally:
            os.close(descriptor)
        return self._files[folder]

    def leave(self, folder: str) -> None:
        if folder not in self.folders:
            raise MeterError("a meter of rewards was switched off while it was open")
        self.folders.remove(folder)
        file = self._files.pop(folder, None)
        if file is not None:
            file.close()


_counters = _Counters(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))


@contextmanager
def count_reward_calls() -> Iterator[RewardMeter]:
    """Count every candidate step of every environment while the context is open, in this process
    and in those that it starts. The meter can be read at any time, and afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="editgym-meter-") as folder, count_into(folder):
        meter = RewardMeter(Path(folder))
        try:
            yield meter
        finally:
            meter.keep()


@contextmanager
def count_into(folder: str) -> Iterator[None]:
    """Count into the meter of a folder, while the context is open."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = folder if not before else os.pathsep.join([before, folder])
    _counters.folders.append(folder)
    try:
        yield
    finally:
        _counters.leave(folder)
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def meters() -> tuple[str, ...]:
    """The folders of the meters that are open in this process."""
    return tuple(_counters.folders)


def join(folders: Iterable[str]) -> None:
    """Count into these meters, too, from now on: for a process that was started before them."""
    _counters.folders += [folder for folder in folders if folder not in _counters.folders]


def record(candidates: int, gradient: bool = False) -> None:
    """Called by the environments where rewards were computed.

    Args:
        candidates: How many.
        gradient: Whether they can be differentiated.
    """
    _counters.add(candidates, candidates if gradient else 0)
