"""Processes that are given calls, one at a time: one that dies, hangs or goes wrong takes down its
own call and nothing else.

They are forked from a server that has imported all that a cell needs, and no agent: a process of
its own for every cell is then a matter of milliseconds. The server is started by a new Python, so
that no state of the caller's is in it, neither threads nor CUDA nor `__main__`. What a process says
comes back as JSON and is never unpickled: it may be a stranger's.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

# One thread, and no progress bars of agents that would overwrite each other's.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
_PRELOADED = "benchmarks.harness.preloaded"
_ROOT = str(Path(__file__).parents[2])
_FORKED = multiprocessing.get_context("forkserver")
_starting = threading.Lock()

Say = Callable[..., None]  # an event, and a JSON value where it has one


class CallError(RuntimeError):
    """A call that has no result.

    Attributes:
        traceback: Where it went wrong, for the person at the terminal.
    """

    def __init__(self, message: str, trace: str | None = None) -> None:
        super().__init__(message)
        self.traceback = trace or message


class ProcessDiedError(CallError):
    """The process ended in the middle of its call."""


class TimeLimitError(CallError):
    """The call did not end in time."""


class Worker:
    """A process that is given calls; it ends with its owner, whatever happens to that one."""

    def __init__(self) -> None:
        self._connection, theirs = _FORKED.Pipe()
        with _starting, _clean_start():
            self._process = _FORKED.Process(
                target=_serve, args=(theirs, {**os.environ, **_ENVIRONMENT})
            )
            self._process.start()
        theirs.close()
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process is there to be called."""
        return self._process.is_alive()

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        say: Say | None = None,
        deadline: float = float("inf"),
    ) -> Any:
        """What `function(*arguments, say)` returns in the process, a JSON value.

        Args:
            function: Importable, as are the arguments.
            *arguments: What it is called with.
            say: Called here with what the function says there, an event and a JSON value, as soon
                as it does.
            deadline: Until when it may take, by `time.monotonic`.

        Raises:
            ProcessDiedError: The process ended.
            TimeLimitError: The deadline is over; the process is ended.
            CallError: The function raised an error; the message is the error's name and text.
        """
        try:
            self._connection.send((function, arguments))
        except OSError:
            raise self._died() from None
        while True:
            event, value = self._next(deadline)
            if event == "result":
                return value
            if event == "error":
                raise CallError(*value)
            if say is not None:
                say(event, value)

    def _next(self, deadline: float) -> tuple[str, Any]:
        """The next thing that the process says."""
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        # The sentinel, too: children of the process may hold its end of the connection.
        ready = connection.wait([self._connection, self._process.sentinel], left)
        if not ready:
            self.kill()
            raise TimeLimitError("did not end in time")
        if self._connection in ready:
            with suppress(EOFError, OSError):
                event, value = json.loads(self._connection.recv_bytes())
                return event, value
        raise self._died()

    def _died(self) -> ProcessDiedError:
        self._process.join(5)
        code = self._process.exitcode
        self.kill()
        if code is None or code >= 0:
            return ProcessDiedError(f"the worker process died: it ended with exit code {code}")
        name = signal.Signals(-code).name
        memory = " (out of memory?)" if name == "SIGKILL" else ""
        return ProcessDiedError(f"the worker process died: killed by {name}{memory}")

    def end(self) -> None:
        """End the process, and those that it has started, from any thread: who waits for a result
        is told that it died.
        """
        assert self._process.pid, "it was started"
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def kill(self) -> None:
        """End the process, and be done with it."""
        if not self._closed:
            self._closed = True
            self.end()
            self._process.join()
            self._connection.close()


def prepare() -> None:
    """Start the server in the background: what it imports is there when the first cell is."""
    with _starting, _clean_start():
        forkserver.ensure_running()


def _serve(calls: connection.Connection, environment: Mapping[str, str]) -> None:
    """Answer calls until there are none; `environment` is the caller's, not the server's."""
    os.environ.clear()
    os.environ.update(environment)
    os.setpgid(0, 0)
    _follow_parent()

    def say(event: str, value: Any = None) -> None:
        calls.send_bytes(json.dumps([event, value]).encode())

    while True:
        try:
            function, arguments = calls.recv()
        except EOFError:
            return
        try:
            say("result", function(*arguments, say))
        except BaseException as error:  # an agent may raise SystemExit
            say("error", [f"{type(error).__name__}: {error}", traceback.format_exc()])
        sys.stdout.flush()
        sys.stderr.flush()


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
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=exit_after_parent, daemon=True).start()


@contextmanager
def _clean_start() -> Iterator[None]:
    """What processes are started with: variables that libraries read when they are loaded, and a
    `__main__` that is nobody's: the caller's may be a script without a guard, or hold the agent.
    """
    forkserver.set_forkserver_preload([_PRELOADED])
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    before = {name: os.environ.get(name) for name in own}
    main = sys.modules["__main__"]
    os.environ.update(own)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
