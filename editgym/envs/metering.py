"""Count the rewards that are computed, in every process, so that a harness need not believe the
agent.

A meter is a folder, and every process that computes rewards has a file of its own in it, two
numbers that are mapped into memory: nobody waits for a lock of another process, and what a process
has counted stays when it is killed. A file is whole from when it is there, and one that is not as
it was made is an error that names it: a count that is lost is a reward that was not paid for.
Processes that are started while a meter is open count into it,
too: forked ones as they are, others by the environment variable `EDITGYM_METERS`. Whoever hands an
environment to another process can also hand over the names of the meters (`meters`, `join`).
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
import struct
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "EDITGYM_METERS"
_COUNTS = struct.Struct("=QQ")
_NAME = re.compile(r"[0-9]+-[0-9a-f]{32}")
_MOST = 2**53  # beyond it no float tells two counts apart, and no process ever comes to it


class MeterError(RuntimeError):
    """Rewards were not counted as they had to be."""


class RewardMeter:
    """What was counted into a folder.

    Args:
        folder: The meter's folder.

    Raises:
        MeterError: When it is read, and a file in it is damaged; the message names it.
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
        try:
            names = sorted(os.listdir(self._folder))
        except OSError as error:
            raise MeterError(
                f"the meter {self._folder} cannot be read ({error.strerror}): it must be the folder"
                " that was made for it"
            ) from error
        found = [(0, 0), *(_counted(self._folder / name) for name in names)]
        calls, gradients = map(sum, zip(*found, strict=True))
        return calls, gradients


def _counted(file: Path) -> tuple[int, int]:
    """The rewards that a process has counted, and how many of them with a gradient.

    Raises:
        MeterError: The file is not as a process makes it.
    """
    wrong = f"the meter {file.parent.name}/{file.name}"
    right = f"it must be a file of {_COUNTS.size} bytes, two whole numbers"
    if not _NAME.fullmatch(file.name):
        raise MeterError(f"{wrong} is nobody's: files are called PROCESS-RANDOM")
    try:
        # No link, or another file would count; and no pipe, which nobody may ever write to.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            state = os.fstat(descriptor)
            is_file = stat.S_ISREG(state.st_mode)
            content = os.read(descriptor, _COUNTS.size + 1) if is_file else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        said = "is a link" if error.errno == errno.ELOOP else f"cannot be read ({error.strerror})"
        raise MeterError(f"{wrong} {said}: {right}") from error
    if len(content) != _COUNTS.size:
        said = f"has {state.st_size:,} bytes" if is_file else "is a folder, a pipe or a device"
        raise MeterError(f"{wrong} {said}: {right}")
    calls, gradients = _COUNTS.unpack(content)
    if calls >= _MOST:
        raise MeterError(
            f"{wrong}, bytes 0–7, says {calls:,} rewards: no process computes {_MOST:,}"
        )
    if gradients > calls:
        raise MeterError(
            f"{wrong}, bytes 8–15, says {gradients:,} rewards with a gradient, of {calls:,} in all"
        )
    return calls, gradients


@dataclass
class _Own:
    """A process's file in a meter, and what it has counted there."""

    path: Path
    mapped: mmap.mmap
    counted: tuple[int, int] = (0, 0)


class _Counters:
    """This process's own file in every meter that is open."""

    def __init__(self, folders: Iterable[str]) -> None:
        self.folders = list(folders)
        self._files: dict[str, _Own] = {}
        self._process = os.getpid()
        self._lock = threading.Lock()

    def add(self, calls: int, gradients: int) -> None:
        if self._process != os.getpid():  # forked: the parent's files are the parent's
            self.__init__(self.folders)  # type: ignore[misc]
        with self._lock:
            for folder in self.folders:
                with suppress(FileNotFoundError):  # a meter that was read and closed meanwhile
                    own = self._files.get(folder) or self._opened(folder)
                    own.counted = own.counted[0] + calls, own.counted[1] + gradients
                    _COUNTS.pack_into(own.mapped, 0, *own.counted)

    def _opened(self, folder: str) -> _Own:
        """This process's file, put into the meter when it is whole."""
        name = f"{self._process}-{uuid.uuid4().hex}"
        path, partial = os.path.join(folder, name), f"{folder}.{name}"
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, _COUNTS.size)
            mapped = mmap.mmap(descriptor, _COUNTS.size)
            os.rename(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
        finally:
            os.close(descriptor)
        self._files[folder] = _Own(Path(path), mapped)
        return self._files[folder]

    def leave(self, folder: str) -> None:
        if folder not in self.folders:
            raise MeterError("a meter of rewards was switched off while it was open")
        self.folders.remove(folder)
        own = self._files.pop(folder, None)
        if own is None:
            return
        own.mapped.close()
        if self._process == os.getpid() and (found := _counted(own.path)) != own.counted:
            raise MeterError(
                f"the meter {own.path.parent.name}/{own.path.name} says {found[0]:,} rewards,"
                f" {found[1]:,} with a gradient, but its process computed {own.counted[0]:,} and"
                f" {own.counted[1]:,}: nobody else may write to it"
            )


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
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
        _counters.leave(folder)


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
