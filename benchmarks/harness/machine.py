"""The machine while a cell runs: threads, seconds, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from benchmarks.results import Cell

_CLEAR_PEAK, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")  # Linux


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread for PyTorch and for the BLAS and OpenMP beneath NumPy and scikit-learn.

    Sums depend on how they are split over threads: with one thread every runner gives the same
    bits.
    """
    threads = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class Timer:
    """Wall-clock seconds of a block; on CUDA until the device has finished what the block
    started.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self.seconds = 0.0

    def __enter__(self) -> Timer:
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._now() - self._start

    def _now(self) -> float:
        synchronize(self._cell)
        return time.perf_counter()


def synchronize(cell: Cell) -> None:
    """Wait until the cell's device has finished what was started on it."""
    for device in _cuda_devices(cell):
        torch.cuda.synchronize(device)


def is_on_cuda(cell: Cell) -> bool:
    """Whether the cell's network is on a GPU, or on several."""
    return bool(_cuda_devices(cell))


def _cuda_devices(cell: Cell) -> list[torch.device]:
    """The GPUs that the cell's network is on; with a `device_map` it may be on any."""
    if cell.env_kwargs.get("device_map") is not None:
        return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    device = torch.device(cell.env_kwargs.get("device", "cpu"))
    return [device] if device.type == "cuda" else []


def forget_peak_memory(cell: Cell) -> None:
    """Start counting anew: a process that works off several cells would give each the largest one's
    peak.
    """
    for device in _cuda_devices(cell):
        torch.cuda.reset_peak_memory_stats(device)
    if not is_on_cuda(cell) and _CLEAR_PEAK.exists():
        with suppress(OSError):  # not allowed in every container; the peak is then the process's
            _CLEAR_PEAK.write_text("5")


def peak_memory_bytes(cell: Cell) -> int:
    """Peak resident memory of the process, or peak allocated memory of the cell's CUDA devices."""
    if devices := _cuda_devices(cell):
        return sum(map(torch.cuda.max_memory_allocated, devices))
    if _STATUS.exists():
        (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
