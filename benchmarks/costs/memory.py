"""The memory that a call takes at its peak."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable

from agents.editors.on_disk import give_back_freed

# A process of its own looks every half millisecond, so that who is looked at does nothing for it.
_WATCH = """
import os, select, sys
def own(page=os.sysconf("SC_PAGE_SIZE")):
    with open(f"/proc/{sys.argv[1]}/statm", "rb") as file:
        resident, shared = file.read().split()[1:3]
    return (int(resident) - int(shared)) * page
first = peak = own()
print(first, flush=True)
while not select.select([sys.stdin], [], [], 0.0005)[0]:
    peak = max(peak, own())
print(peak, flush=True)
"""


def peak_of(function: Callable[[], object]) -> int:
    """Bytes that a call takes at its peak beyond what the process held before it.

    Only memory of the process's own counts. Pages of files, as of mapped weights, the kernel takes
    away and brings back when it likes, so that what is resident tells of the call before, too.

    Raises:
        OSError: The system is not Linux, whose /proc tells it.
    """
    gc.collect()
    give_back_freed()
    command = [sys.executable, "-S", "-c", _WATCH, str(os.getpid())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        before = watcher.stdout.readline()
        if not before:
            raise OSError("memory is told by /proc/PID/statm, and this system has none")
        try:
            function()
        finally:
            watcher.stdin.close()
        return int(watcher.stdout.read()) - int(before)
