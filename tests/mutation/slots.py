"""Copies of the checkout in which tests run on changed code, each run in a process of its own.

Importing torch and transformers takes longer than most tests that notice a mutant. So a server
process imports them once, and every run is forked from it. Mutated code is only ever in the copies.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

# Read by the libraries when they are imported, which here is before the tests' own settings.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
)

import pytest

PACKAGES = ("editgym", "agents", "benchmarks", "envs_registry.py")
# Nothing that imports the checkout may be among them.
PRELOADED = (
    "cosmic_ray.commands.init",
    "fairlearn.metrics",
    "gymnasium",
    "matplotlib.pyplot",
    "peft",
    "pytest",
    "scipy.stats",
    "sklearn.linear_model",
    "stable_baselines3",
    "torchvision",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
MEMORY = 8 * 2**30  # bytes, for a mutant that doubles a length until the machine is full
OTHER_CODE = 99  # exit status of a run that imported another editgym than its copy's
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))


class Job(NamedTuple):
    """A run of tests.

    Attributes:
        name: Name of the job.
        module: Path, relative to the checkout, of the module that is replaced, or None.
        code: Text of the replaced module.
        tests: Paths of test files, relative to the checkout, in their order.
        seconds: Processor time that the run has; twice as much on the clock.
    """

    name: str
    module: Path | None
    code: str
    tests: list[str]
    seconds: float


class Outcome(NamedTuple):
    """The end of a run of tests.

    Attributes:
        status: Exit status, as pytest's or a negative signal; None if the run was out of time.
        output: Last 2,000 characters that were printed.
        seconds: Seconds on the clock.
    """

    status: int | None
    output: str
    seconds: float


class Slot:
    """A copy of the checkout in which one job runs at a time.

    Args:
        root: Top folder of the checkout; what git ignores is not copied.
        folder: Empty folder for the copy.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.job: Job | None = None
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():
                (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, folder / "checkout" / name)
        # The tests' conftest takes their own checkout off the path, so the packages get another.
        (folder / "packages").mkdir()
        for name in PACKAGES:
            (folder / "packages" / name).symlink_to(folder / "checkout" / name)

    def start(self, job: Job) -> None:
        """Put the job's code into the copy and start its tests."""
        self.job, self.started = job, time.monotonic()
        if job.module is not None:
            # The checkout may change while this goes on, so the copy keeps its own original.
            shutil.copy2(self.folder / "checkout" / job.module, self.folder / "original")
            (self.folder / "checkout" / job.module).write_text(job.code)
        self.process = CONTEXT.Process(
            target=_run_tests, args=(str(self.folder), job.tests, job.seconds)
        )
        self.process.start()

    def finish(self) -> Outcome | None:
        """Put the copy right if the job is done or out of time; return None while it runs."""
        assert self.job is not None
        seconds = time.monotonic() - self.started
        late = seconds > 2 * self.job.seconds
        if self.process.is_alive() and not late:
            return None
        self.end()
        late = late or self.process.exitcode in (-signal.SIGKILL, -signal.SIGXCPU)
        if self.job.module is not None:
            shutil.copy2(self.folder / "original", self.folder / "checkout" / self.job.module)
        self.job = None
        output = (self.folder / "output").read_text(errors="replace")[-2000:]
        return Outcome(None if late else self.process.exitcode, output, seconds)

    def end(self) -> None:
        """End the job's process and all that it started."""
        assert self.process.pid is not None
        self.process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()


def run(jobs: Iterable[Job], slots: list[Slot]) -> Iterator[tuple[Job, Outcome]]:
    """Run jobs side by side, one in each slot, and yield each with its outcome when it is done.

    Raises:
        RuntimeError: A run imported editgym from elsewhere, so that it says nothing of the job.
    """
    waiting, free = list(jobs)[::-1], list(slots)
    busy: dict[Slot, Job] = {}
    try:
        while waiting or busy:
            while waiting and free:
                slot, job = free.pop(), waiting.pop()
                slot.start(job)
                busy[slot] = job
            connection.wait([slot.process.sentinel for slot in busy], timeout=1)
            for slot, job in list(busy.items()):
                outcome = slot.finish()
                if outcome is None:
                    continue
                free.append(slot)
                del busy[slot]
                if outcome.status == OTHER_CODE:
                    raise RuntimeError(f"editgym was not imported from {slot.folder}")
                yield job, outcome
    finally:
        for slot in busy:
            slot.end()


def _run_tests(folder: str, tests: list[str], seconds: float) -> None:
    """Run tests in the copy under `folder`, in the forked process."""
    os.setsid()  # a process group, which can be ended as a whole
    limit = int(seconds) + 1  # ends the run even where the parent was killed
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    output = os.open(f"{folder}/output", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(f"{folder}/checkout")
    # Bytecode of a mutant could outlive it.
    os.environ.update(PYTHONPATH=f"{folder}/packages", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path[0] = f"{folder}/packages"
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/temporary"]
    status = int(pytest.main([*options, *tests]))
    editgym = sys.modules.get("editgym")
    if editgym is not None and not str(editgym.__file__).startswith(folder):
        status = OTHER_CODE
    sys.exit(status)
