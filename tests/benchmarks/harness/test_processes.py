"""Processes that are given calls: what goes wrong in one is said, and takes nothing else down."""

import importlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.harness import processes
from benchmarks.harness.processes import (
    CallError,
    ProcessDiedError,
    TimeLimitError,
    UnaskedError,
    Worker,
)

pytestmark = pytest.mark.isolated

STUMBLE = """
import json, os, signal, sys, threading, time

def double(number):
    print("a process may print")
    return 2 * number

def double_later(number):
    time.sleep(4)
    return 2 * number


def signal_parent(number):
    os.kill(os.getppid(), number)
    time.sleep(0.5)
    return True


def fail(why="no luck"):
    raise ValueError(why)

def fail_without_text():
    class Silent(Exception):
        def __str__(self):
            raise KeyError("no text")

    raise Silent


def leave():
    sys.exit("enough")

def drop():
    os._exit(3)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass

def drop_with_a_child():
    if os.fork():
        os._exit(4)
    time.sleep(60)

def threads_of_a_bar():
    from tqdm import tqdm
    from tqdm.auto import tqdm as another
    before = threading.active_count()
    for bar in (tqdm, another):
        list(bar(range(3)))
    return threading.active_count() - before

def no_json():
    return {1, 2}

def pid_of_a_child_that_stays():
    child = os.fork()
    if not child:
        time.sleep(600)
    threading.Thread(target=time.sleep, args=(600,)).start()
    return child

def pid_of_one_that_left():
    '''A process in a session of its own, whose parent has ended.'''
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.write(writing, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(reading, 20))

def parts_of_main():
    return [name for name in vars(sys.modules["__main__"]) if not name.startswith("__")]

def variable(name):
    return os.environ.get(name)

def imported(names):
    return [name for name in names if name in sys.modules]

def has_begun_with_cuda():
    import torch
    return torch.cuda.is_initialized()

def counting(end):
    for number in range(end):
        time.sleep(0.2)
        yield number

def failing():
    yield 1
    raise ValueError("no luck")

def connection():
    '''Where the process answers, and the number of what it was asked.'''
    frame = sys._getframe()
    while frame.f_code.co_name != "serve":
        frame = frame.f_back
    return frame.f_locals["answers"].fileno(), frame.f_locals["number"]

def write(*lines):
    descriptor, number = connection()
    for line in lines:
        content = bytes.fromhex(line).replace(b"NUMBER", number.encode())
        while content:
            content = content[os.write(descriptor, content):]
    return "in truth"

def write_and_hang(line):
    write(line)
    hang()

def flood():
    descriptor, _ = connection()
    while True:
        os.write(descriptor, b"x" * 65536)

def close():
    os.close(connection()[0])
    hang()

def answers_early_in_its_first_stage(said):
    descriptor, number = connection()
    os.write(descriptor, (json.dumps([number, "value", said]) + chr(10)).encode())
    time.sleep(0.5)
    yield "in truth"
    yield "the second"

def answer_late():
    descriptor, number = connection()
    def speak():
        time.sleep(0.3)
        os.write(descriptor, b"by the way" + chr(10).encode())
    threading.Thread(target=speak).start()
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


@pytest.mark.slow
def test_who_stops_or_ends_the_server_of_processes_ends_no_call(stumble, worker):
    """It is the parent of every agent's process: an agent may do that to its own."""
    busy = Worker()
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(busy.call, stumble.double_later, 4)
        assert worker.call(stumble.signal_parent, signal.SIGSTOP)
        worker.kill()  # it is told to have ended by the server
        another = Worker()
        assert another.call(stumble.double, 2) == 4
        assert another.call(stumble.signal_parent, signal.SIGKILL)
        assert told.result() == 8
        for one in (another, busy):
            one.kill()
    after = Worker()
    assert after.call(stumble.double, 3) == 6
    with pytest.raises(ProcessDiedError, match="killed by SIGKILL"):
        after.call(stumble.die)


def ended(pid):
    """Whether a process is gone, or nothing but its entry is left."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_process_answers_calls_and_survives_errors(stumble, worker, monkeypatch):
    assert worker.call(stumble.double, 21) == 42
    for function, message in [
        (stumble.fail, "ValueError: no luck"),
        (stumble.fail_without_text, "Silent, whose text cannot be had: KeyError"),
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


def test_bars_leave_no_threads_behind(stumble, worker):
    """They would look like an agent's, and no other agent would be let into the process."""
    assert worker.call(stumble.threads_of_a_bar) == 0


@pytest.mark.parametrize("name", ["pid_of_a_child_that_stays", "pid_of_one_that_left"])
def test_what_a_process_has_started_ends_with_it(stumble, worker, name):
    child = worker.call(getattr(stumble, name))
    assert not ended(child)
    worker.kill()
    deadline = time.monotonic() + 10
    while not ended(child):
        assert time.monotonic() < deadline, os.listdir("/proc")
        time.sleep(0.02)


def test_stages_go_on_as_they_are_asked_for(stumble, worker):
    stages = worker.stages(stumble.counting, 3, deadline=float("inf"))
    found, seconds = [], []
    begin = time.perf_counter()
    for number in stages:
        seconds.append(time.perf_counter() - begin)
        found.append(number)
        time.sleep(0.5)  # nothing goes on there meanwhile
        begin = time.perf_counter()
    assert found == [0, 1, 2]
    assert min(seconds) > 0.19
    stages = worker.stages(stumble.failing, deadline=float("inf"))
    assert next(stages) == 1
    with pytest.raises(CallError, match="ValueError: no luck"):
        next(stages)
    assert worker.call(stumble.double, 2) == 4, "a process survives errors of stages, too"


def hexadecimal(text):
    return text.encode().hex()


# What may come in the place of an answer: NUMBER is the number of what was asked.
DAMAGES = {
    "another's number": (['["0123", "value", 1]\n'], "which is not its answer"),
    "no number": (['["result", 1]\n'], "which is not its answer"),
    "another kind": (['["NUMBER", "learned", 1]\n'], "which is not its answer"),
    "a kind of another type": (['["NUMBER", ["value"], 1]\n'], "which is not its answer"),
    "too long a list": (['["NUMBER", "value", 1, 2]\n'], "which is not its answer"),
    "an object": (['{"NUMBER": "value"}\n'], "which is not its answer"),
    "a number alone": (["7\n"], "which is not its answer"),
    "an empty line": (["\n"], "which is not its answer"),
    "binary": (["\x00\x00\x00\x05\u00ff\n"], "which is not its answer"),
    "truncated": (['["NUMBER", "val\n'], "which is not its answer"),
    "no end of brackets": (["[" * 100_000 + "\n"], "which is not its answer"),
    "an endless number": (['["NUMBER", "value", ' + "9" * 10_000 + "]\n"], "is not its answer"),
    "an error of another type": (['["NUMBER", "error", 7]\n'], "an error without its texts"),
    "an error without a trace": (['["NUMBER", "error", ["x", 7]]\n'], "an error without its"),
    "an end": (['["NUMBER", "end", null]\n'], "'end' in the place of a value"),
}


@pytest.mark.parametrize(("lines", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_answer_ends_the_process_and_fails_the_call(stumble, worker, lines, message):
    with pytest.raises(UnaskedError, match=message):
        worker.call(stumble.write, *map(hexadecimal, lines))
    assert not worker.alive


def test_a_second_answer_fails_whatever_is_asked_next(stumble, worker):
    assert worker.call(stumble.write, hexadecimal('["NUMBER", "value", "forged"]\n')) == "forged"
    with pytest.raises(
        UnaskedError, match=r"in truth.* before it was asked|which is not its answer"
    ):
        worker.call(stumble.double, 2)


def test_a_stage_that_is_answered_early_fails_at_the_next(stumble, worker):
    stages = worker.stages(
        stumble.answers_early_in_its_first_stage, "forged", deadline=float("inf")
    )
    assert next(stages) == "forged"
    with pytest.raises(UnaskedError, match="which is not its answer"):
        next(stages)


def test_whoever_speaks_unasked_is_not_silent(stumble, worker):
    worker.call(stumble.answer_late)
    assert worker.silent
    deadline = time.monotonic() + 30
    while worker.silent:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(UnaskedError, match=r"by the way.* before it was asked"):
        worker.call(stumble.double, 2)


def test_an_answer_without_end_is_not_kept(stumble, worker, monkeypatch):
    monkeypatch.setattr(processes, "_LONGEST", 2**16)
    with pytest.raises(UnaskedError, match="more than 65,536 bytes as one answer"):
        next(worker.stages(stumble.flood, deadline=float("inf")))
    assert not worker.alive


def test_half_an_answer_and_a_hang_end_in_time(stumble, worker):
    worker.call(stumble.double, 1)
    begin = time.monotonic()
    with pytest.raises(TimeLimitError):
        worker.call(stumble.write_and_hang, hexadecimal('["NUMBER", '), deadline=begin + 0.5)
    assert time.monotonic() - begin < 20


def test_a_process_that_closes_its_connection_is_told_from_one_that_died(
    stumble, worker, monkeypatch
):
    monkeypatch.setattr(worker._process, "join", lambda *_: None)  # it need not be waited for
    with pytest.raises(ProcessDiedError, match="the worker process closed its connection"):
        worker.call(stumble.close)


def test_an_error_without_end_is_cut(stumble, worker):
    with pytest.raises(CallError, match="1,000,012 characters in all") as caught:
        worker.call(stumble.fail, "x" * 1_000_000)
    assert len(str(caught.value)) < 21_000
