"""The folder that rows go to, with their journals and records: one process writes there, and sees
when another one has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from benchmarks.results import ROWS_FILE, Row, append_row, read_rows, records_file
from editgym.paths import whole_file


class RunnerError(RuntimeError):
    """Cells cannot be run, or rows cannot be written, at all."""


class _State(NamedTuple):
    """What cannot stay the same when a file is written to, as `os.stat` names it."""

    st_ino: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int


class Store:
    """A folder of results while one process writes to it; made by `only_writer`.

    Args:
        folder: The folder; it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._file = folder, folder / ROWS_FILE
        self._state, self._latest = self._state_now(), "the beginning"

    def rows(self) -> list[Row]:
        """The rows that are there.

        Raises:
            ResultsError: They cannot be read.
            RunnerError: Somebody else has written to them.
        """
        self._check()
        return read_rows(self._file)

    def add(self, row: Row, journal: bytes | memoryview | None, records: bytes | None) -> None:
        """Write a row, after its files: it never names one that is not there.

        Raises:
            RunnerError: Somebody else has written to the rows; this one is not written.
            OSError: The folder cannot be written.
        """
        self._check()
        for name, content in ((row["edit_file"], journal), (records_file(row["cell"]), records)):
            if content is not None:
                with whole_file(self._folder / name) as partial, partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # like the row that names it
        size = 0 if self._state is None else self._state.st_size
        start, end = append_row(self._file, row)
        self._state = self._state_now()
        if start > size or self._state is None or self._state.st_size != end:
            raise self._written_to()  # while this row was written
        self._latest = f"the row of the cell {row['cell']}"

    def _check(self) -> None:
        if self._state_now() != self._state:
            raise self._written_to()

    def _written_to(self) -> RunnerError:
        return RunnerError(
            f"{self._file} was written to by somebody else since {self._latest}, while nobody"
            " but this process may: agents can do it. Look at the lines after that one, delete"
            " what nobody measured, and run the same command again"
        )

    def _state_now(self) -> _State | None:
        """How the file is; None where there is none."""
        try:
            state = self._file.stat()
        except FileNotFoundError:
            return None
        return _State(state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def check_is_folder(folder: Path) -> None:
    """Refuse to write into a file.

    Raises:
        RunnerError: There is one in the folder's place.
    """
    if folder.is_file():
        raise RunnerError(f"{folder} is a file, and must be a folder: give another one")


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Keep every other process from writing to a folder, if there is one already: whoever makes it
    once all is checked is the first there.

    Raises:
        RunnerError: Another process has it, or it is a file.
    """
    check_is_folder(folder)
    with only_writer(folder) if folder.is_dir() else nullcontext():
        yield


@contextmanager
def only_writer(folder: Path) -> Iterator[Store]:
    """The folder's store, for this process alone: two that append to one file would cut each
    other's lines. The lock dies with its process.

    Raises:
        RunnerError: Another process has it.
    """
    try:
        with FileLock(folder / f"{ROWS_FILE}.lock", timeout=0):
            # Of runs that were killed; a report of this folder, which needs no lock, has its own.
            for partial in (*folder.glob("edits/*.partial"), *folder.glob("records/*.partial")):
                partial.unlink(missing_ok=True)
            yield Store(folder)
    except Timeout as error:
        raise RunnerError(
            f"another run is writing to {folder}: wait for it, or give another folder"
        ) from error
