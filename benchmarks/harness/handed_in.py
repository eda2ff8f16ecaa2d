"""Files that an agent's process leaves for the harness: anything may lie in their place."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

_PIECE = 2**20  # bytes that are copied at a time
_RIGHT = "a file of its own must lie there, as it was saved"


class HandedInError(ValueError):
    """A file that an agent's process was to leave, and that cannot be taken."""


def handed_in(path: Path, what: str, to: Path, most: int | None = None) -> memoryview:
    """The content of a file that an agent's process left, copied to where the harness alone works.

    It is mapped into memory from there, and stays readable when that folder goes: an edit of a long
    stream has gigabytes.

    Args:
        path: Where it should be, in a folder that is the harness's.
        what: What it is called in messages.
        to: Where it is copied to; no such file may be there.
        most: Bytes that it may have; half of the machine's memory by default.

    Raises:
        HandedInError: There is none, or a folder, a link or a device, or it is too large; the
            message says what is there, and what would be right.
    """
    limit = _half_of_memory() if most is None else most
    try:
        # No link, or anything on this machine could be meant; and no pipe, which nobody may write.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise HandedInError(f"{what}, {path.name}, {_reason(error)}") from error
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode):
            kind = "a folder" if stat.S_ISDIR(state.st_mode) else "no file but a pipe or a device"
            raise HandedInError(f"{what}, {path.name}, is {kind}: {_RIGHT}")
        if state.st_size > limit:
            raise HandedInError(
                f"{what}, {path.name}, has {state.st_size:,} bytes, and may have {limit:,}"
            )
        with open(descriptor, "rb", closefd=False) as file, to.open("xb") as copy:
            left = limit
            while left and (piece := file.read(min(left, _PIECE))):
                left -= copy.write(piece)
    except OSError as error:
        raise HandedInError(f"{what}, {path.name}, {_reason(error)}") from error
    finally:
        os.close(descriptor)
    return _mapped(to)


def _mapped(path: Path) -> memoryview:
    if not path.stat().st_size:
        return memoryview(b"")  # which cannot be mapped
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _reason(error: OSError) -> str:
    said = {errno.ENOENT: "is missing", errno.ELOOP: "is a link to another place"}
    return f"{said.get(error.errno or 0, f'cannot be read ({error.strerror})')}: {_RIGHT}"


def _half_of_memory() -> int:
    """Bytes: what comes in is evaluated in memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
