"""Processes that are given calls: what goes wrong in one is said, and takes nothing else down."""

import importlib
import os
import time

import pytest

from benchmarks.harness.processes import CallError, ProcessDiedError, TimeLimitError, Worker

pytestmark = pytest.mark.isolated

STUMBLE = """
import os, signal, sys, threading, time

def double(number, say):
    say("doubling", number)
    print("a process may print")
    return 2 * number

def fail(say):
    raise ValueError("no luck")

def leave(say):
    sys.exit("enough")

def drop(say):
    os._exit(3)

def die(say):
    os.kill(os.getpid(), signal.SIGKILL)

def hang(say):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass

def drop_with_a_child(say):
    if os.fork():
        os._exit(4)
    time.sleep(60)

def no_json(say):
    return {1, 2}

def pid_of_a_child_that_stays(say):
    child = os.fork()
    if not child:
        time.sleep(600)
    threading.Thread(target=time.sleep, args=(600,)).start()
    return child

def parts_of_main(say):
    return [name for name in vars(sys.modules["__main__"]) if not name.startswith("__")]

def variable(name, say):
    return os.environ.get(name)

def imported(names, say):
    return [name for name in names if name in sys.modules]

def has_begun_with_cuda(say):
    import torch
    return torch.cuda.is_initialized()
"""


@pytest.fixture
def stumble(tmp_path, monkeypatch):
    (tmp_path / "stumbling.py").write_text(STUMBLE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("stumbling")


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.kill()


def ended(pid):
    """Whether a process is gone, or nothing but its entry is left."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_answers_calls_says_what_happens_and_survives_errors(
    stumble, worker, monkeypatch
):
    said = []
    assert worker.call(stumble.double, 21, say=lambda *event: said.append(event)) == 42
    assert said == [("doubling", 21)]
    for function, message in [
        (stumble.fail, "ValueError: no luck"),
        (stumble.leave, "SystemExit: enough"),
        (stumble.no_json, "TypeError: Object of type set is not JSON serializable"),
    ]:
        with pytest.raises(CallError, match=message) as caught:
            worker.call(function)
        assert "Traceback" in caught.value.traceback
    assert worker.call(stumble.double, 2) == 4
    assert worker.call(stumble.parts_of_main) == ["main"], "the server's, not the caller's"
    there = ["benchmarks.harness.learning", "editgym.envs.mask_world", "editgym.envs.lifelong.env"]
    assert worker.call(stumble.imported, [*there, "agents.black_box"]) == there
    assert not worker.call(stumble.has_begun_with_cuda)
    monkeypatch.setenv("EDITGYM_TEST", "the caller's")
    another = Worker()
    assert another.call(stumble.variable, "EDITGYM_TEST") == "the caller's"
    another.kill()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drop", "the worker process died: it ended with exit code 3"),
        ("die", r"the worker process died: killed by SIGKILL \(out of memory\?\)"),
        ("drop_with_a_child", "the worker process died: it ended with exit code 4"),
    ],
)
def test_a_process_that_dies_says_how(stumble, worker, name, message):
    with pytest.raises(ProcessDiedError, match=message):
        worker.call(getattr(stumble, name))


def test_a_hang_ends_in_time(stumble, worker):
    worker.call(stumble.double, 1)
    begin = time.monotonic()
    with pytest.raises(TimeLimitError):
        worker.call(stumble.hang, deadline=begin + 0.2)
    assert time.monotonic() - begin < 10


def test_what_a_process_has_started_ends_with_it(stumble, worker):
    child = worker.call(stumble.pid_of_a_child_that_stays)
    assert not ended(child)
    worker.kill()
    deadline = time.monotonic() + 10
    while not ended(child):
        assert time.monotonic() < deadline, os.listdir("/proc")
        time.sleep(0.02)
