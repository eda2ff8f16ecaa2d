"""Processes that a process has started, and those that they have started, also where one has left
its group and its session to outlive it: on Linux, where `/proc` tells and orphans can be adopted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_ROUNDS = 20  # so often somebody may start another process while these are being ended


def adopt_orphans() -> None:
    """Let this process be the parent of every descendant whose own parent ends, not the system's
    first process: nobody leaves the family.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)


def end_descendants(process: int) -> None:
    """End every descendant of a process; the process itself goes on."""
    for _ in range(_ROUNDS):
        found = descendants(process)
        for one in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGKILL)
        if not found:
            return


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that they have, and so on; those that
    have ended and wait to be asked for are left out.
    """
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = _state(place)
        except (OSError, ValueError):  # it has ended meanwhile
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(place.parent.name))
    found: list[int] = []
    waiting = [process]
    while waiting:
        own = children.get(waiting.pop(), [])
        found += own
        waiting += own
    return found


def has_ended(process: int) -> bool:
    """Whether a process has ended, whether or not anybody has asked for it."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):  # or its number is somebody else's by now
        return True
    try:
        return _state(Path(f"/proc/{process}/stat"))[0] == "Z"
    except FileNotFoundError:  # no Linux
        return False


def _state(place: Path) -> list[str]:
    """The state of a process, and the number of its parent."""
    # The name stands in brackets, and may have blanks and brackets of its own.
    return place.read_text(errors="replace").rpartition(")")[2].split()[:2]
