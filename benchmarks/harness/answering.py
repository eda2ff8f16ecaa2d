"""What a process of the harness does: it answers requests, one line of JSON for each, until there
are none (`processes` asks them).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing import connection
from typing import Any

from tqdm import tqdm

from benchmarks.harness.descendants import adopt_orphans

# Characters of an error's text and of its trace, which may be a stranger's.
_TEXT, _TRACE = 20_000, 100_000


def serve(
    requests: connection.Connection, answers: connection.Connection, environment: Mapping[str, str]
) -> None:
    """Answer requests until there are none; `environment` is the caller's, not the server's."""
    os.environ.clear()
    os.environ.update(environment)
    os.setpgid(0, 0)
    adopt_orphans()
    _follow_parent()
    stages: Iterator[Any] = iter(())
    while True:
        try:
            number, request = requests.recv()
        except EOFError:
            return
        try:
            if request is None:
                answer = _next(stages)
            else:
                function, arguments = request
                found = function(*arguments)
                stages, value = (found, None) if isinstance(found, Iterator) else (iter(()), found)
                answer = ["value", value]
            line = json.dumps([number, *answer])
        except BaseException as error:  # an agent may raise SystemExit
            text, trace = _said(error), traceback.format_exc()
            line = json.dumps([number, "error", [_cut(text, _TEXT), _cut(trace, _TRACE)]])
        with suppress(Exception):  # an agent may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        _write(answers.fileno(), f"{line}\n".encode())


def _next(stages: Iterator[Any]) -> list[Any]:
    """The kind and value of the next stage, which may be that there is none."""
    for value in stages:
        return ["value", value]
    return ["end", None]


def _said(error: BaseException) -> str:
    """The name and the text of an error, which may be a stranger's, and have none."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as another:
        return f"{type(error).__name__}, whose text cannot be had: {type(another).__name__}"


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _cut(text: str, most: int) -> str:
    """A text that may be a stranger's, without its middle where it is too long."""
    half = most // 2
    return (
        text
        if len(text) <= most
        else f"{text[:half]} […, {len(text):,} characters in all, …] {text[-half:]}"
    )


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(
        threading.RLock()
    )  # its default is a named semaphore, which a terminated worker leaves behind
    tqdm.monitor_interval = 0  # or the first bar of an agent would leave a thread behind
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_after_parent() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=exit_after_parent, daemon=True).start()
