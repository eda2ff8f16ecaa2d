"""Processes that are given calls, one at a time: one that dies, hangs or goes wrong takes down its
own call and nothing else.

They are forked from a server that has imported all that a cell needs, and no agent: a process of
its own for every cell is then a matter of milliseconds. The server is started by a new Python, so
that no state of the caller's is in it, neither threads nor CUDA nor `__main__`.

A process speaks when it is asked, and once: every request has a number of its own that nobody can
guess, and its answer is one line of JSON with this number. It is never unpickled: the process may
be a stranger's. Whatever else comes from there, sooner or later, ends the process and fails the
call. A call in stages does one of them for each request, so that the caller's clock stands between
what is asked and what is answered.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.harness.answering import serve
from benchmarks.harness.descendants import end_descendants, has_ended

# One thread, and no progress bars of agents that would overwrite each other's.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
_PRELOADED = "benchmarks.harness.preloaded"
_ROOT = str(Path(__file__).parents[2])
_FORKED = multiprocessing.get_context("forkserver")
_starting = threading.Lock()

# An answer of a stranger's process is a few words, unless it is an error, whose text is cut.
_LONGEST = 4 * 2**20
_PIECE = 2**20  # bytes that are read at once


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


class UnaskedError(CallError):
    """The process sent something else than the answer to what it was asked."""


class Worker:
    """A process that is given calls; it ends with its owner, whatever happens to that one."""

    def __init__(self) -> None:
        theirs, self._requests = _FORKED.Pipe(duplex=False)
        self._answers, answers = _FORKED.Pipe(duplex=False)
        with _starting, _clean_start():
            _wake_server()
            self._process = _FORKED.Process(
                target=serve, args=(theirs, answers, {**os.environ, **_ENVIRONMENT})
            )
            self._process.start()
        assert self._process.pid, "it was started"
        self._pid: int = self._process.pid
        theirs.close()
        answers.close()
        self._heard = bytearray()
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the process is there to be called."""
        return self._process.is_alive()

    @property
    def silent(self) -> bool:
        """Whether the process has said nothing since its last answer."""
        return not self._heard and not self._answers.poll()

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        deadline: float = float("inf"),
        longest: float = float("inf"),
    ) -> Any:
        """What `function(*arguments)` returns in the process, a JSON value.

        Args:
            function: Importable, as are the arguments.
            *arguments: What it is called with.
            deadline: Until when it may take, by `time.monotonic`.
            longest: Bytes that its answer may have.

        Raises:
            ProcessDiedError: The process ended.
            TimeLimitError: The deadline is over; the process is ended.
            UnaskedError: It sent something else than one answer; it is ended.
            CallError: The function raised an error; the message is the error's name and text.
        """
        kind, value = self._asked((function, arguments), deadline, longest)
        if kind != "value":
            raise self._unasked(f"{kind!r} in the place of a value")
        return value

    def stages(
        self, function: Callable[..., Iterator[Any]], *arguments: Any, deadline: float
    ) -> Iterator[Any]:
        """What the generator `function(*arguments)` yields in the process, JSON values, one for
        each request: nothing goes on there before the next one is asked for.

        Args:
            function: Importable, as are the arguments.
            *arguments: What it is called with.
            deadline: Until when all of them may take, by `time.monotonic`.

        Raises:
            ProcessDiedError: The process ended.
            TimeLimitError: The deadline is over; the process is ended.
            UnaskedError: It sent something else than one answer to each request; it is ended.
            CallError: The function raised an error, in the stage that was asked for.
        """
        self._asked((function, arguments), deadline, _LONGEST)
        while True:
            kind, value = self._asked(None, deadline, _LONGEST)
            if kind == "end":
                return
            yield value

    def _asked(self, request: Any, deadline: float, longest: float) -> tuple[str, Any]:
        """The kind of the answer to a request, and its value."""
        if not self.silent:
            said = bytes(self._heard) or self._piece(deadline)
            raise self._unasked(f"{said[:80]!r} before it was asked")
        number = secrets.token_hex(16)
        try:
            self._requests.send((number, request))
        except OSError:
            raise self._died() from None
        line = self._line(deadline, longest)
        try:
            told, kind, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            told = kind = None
        if told != number or kind not in ("value", "end", "error"):
            raise self._unasked(f"{line[:80]!r}, which is not its answer")
        if kind == "error":
            if not (isinstance(value, list) and [type(one) for one in value] == [str, str]):
                raise self._unasked(f"{line[:80]!r}, an error without its texts")
            raise CallError(*value)
        return kind, value

    def _line(self, deadline: float, longest: float) -> bytes:
        """The next line that the process writes, without its end."""
        searched = 0
        while (end := self._heard.find(b"\n", searched)) < 0:
            searched = len(self._heard)
            if searched > longest:
                raise self._unasked(f"more than {longest:,} bytes as one answer")
            self._heard += self._piece(deadline)
        line = bytes(self._heard[:end])
        del self._heard[: end + 1]
        return line

    def _piece(self, deadline: float) -> bytes:
        """What the process has written, or writes until the deadline; never nothing."""
        while True:
            left = max(0.0, deadline - time.monotonic())
            # The sentinel, too: children of the process may hold its end of the connection.
            ready = connection.wait(
                [self._answers, self._process.sentinel], None if left == float("inf") else left
            )
            if ready != [self._process.sentinel] or has_ended(self._pid):
                break
            # The server has ended, which tells of it: an agent may have done that, to all others.
            ready = connection.wait([self._answers], min(left, 1.0))
            if ready or left == 0.0:
                break
        if not ready:
            self.kill()
            raise TimeLimitError("did not end in time")
        piece = os.read(self._answers.fileno(), _PIECE) if self._answers in ready else b""
        if not piece:
            raise self._died()
        return piece

    def _unasked(self, what: str) -> UnaskedError:
        self.kill()
        return UnaskedError(
            f"the process sent {what}: it answers what the harness asks, once each, and nothing"
            " else may write to its connection, for then nobody knows what is true of the cell"
        )

    def _died(self) -> ProcessDiedError:
        _wake_server()
        self._process.join(5)
        code = self._process.exitcode
        self.kill()
        if code is None:
            return ProcessDiedError("the worker process closed its connection to the harness")
        if code >= 0:
            return ProcessDiedError(f"the worker process died: it ended with exit code {code}")
        known = {one.value: one.name for one in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        memory = " (out of memory?)" if name == "SIGKILL" else ""
        return ProcessDiedError(f"the worker process died: killed by {name}{memory}")

    def end(self) -> None:
        """End the process, and those that it has started, from any thread: who waits for a result
        is told that it died.
        """
        end_descendants(self._pid)  # before it: they are its children while it lives
        for end in (os.killpg, os.kill):
            with suppress(ProcessLookupError, PermissionError):
                end(self._pid, signal.SIGKILL)

    def kill(self) -> None:
        """End the process, and be done with it."""
        if not self._closed:
            self._closed = True
            self.end()
            while self._process.is_alive():  # as the server tells
                _wake_server()
                self._process.join(1)
            self._requests.close()
            self._answers.close()


def call_apart(function: Callable[..., Any], *arguments: Any, **limits: float) -> Any:
    """What `Worker.call` returns, of a process that ends with the call."""
    worker = Worker()
    try:
        return worker.call(function, *arguments, **limits)
    finally:
        worker.kill()


def _wake_server() -> None:
    """Let the server go on, which is the parent of every agent's process, and may have been stopped
    by one: then no process would begin or be told to have ended.
    """
    server = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGCONT)


def prepare() -> None:
    """Start the server in the background: what it imports is there when the first cell is."""
    with _starting, _clean_start():
        forkserver.ensure_running()


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
