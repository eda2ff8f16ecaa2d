"""Which GPUs a cell's network is on: times wait for them, and memory is theirs."""

import pytest
import torch

from benchmarks.harness import machine
from benchmarks.results import Cell
from benchmarks.results.agreement import on_cuda


def cell_with(**arguments):
    arguments = {"task": "knowledge/custom", **arguments}
    return Cell("gpus", "LifelongLLMEdit-v1", arguments, "no_edit", {}, 0)


@pytest.fixture
def two_gpus(monkeypatch):
    """What is asked of two GPUs, which this machine need not have."""
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in (
        ("synchronize", None),
        ("reset_peak_memory_stats", None),
        ("max_memory_allocated", 5),
    ):
        monkeypatch.setattr(
            torch.cuda,
            name,
            lambda device, name=name, value=value: asked.append((name, str(device))) or value,
        )
    return asked


@pytest.mark.parametrize(
    ("arguments", "devices"),
    [
        ({"device": "cuda:1"}, ["cuda:1"]),
        ({"device_map": "auto"}, ["cuda:0", "cuda:1"]),
        ({"device_map": {"": 0}, "device": "cpu"}, ["cuda:0", "cuda:1"]),
        ({"device": "cpu", "device_map": None}, []),
    ],
)
def test_a_cell_is_on_the_gpus_that_its_network_may_be_on(arguments, devices, two_gpus):
    cell = cell_with(**arguments)
    machine.synchronize(cell)
    machine.forget_peak_memory(cell)
    peak = machine.peak_memory_bytes(cell)
    assert machine.is_on_cuda(cell) == bool(devices)
    assert peak == 5 * len(devices) or not devices
    assert [device for name, device in two_gpus if name == "synchronize"] == devices
    assert len(two_gpus) == 3 * len(devices)


@pytest.mark.parametrize("gpu", [None, "a GPU"])
def test_a_row_of_a_spread_model_is_one_of_a_gpu_where_there_was_one(gpu):
    row = {"env_kwargs": {"device_map": "auto"}, "hardware": {"gpu": gpu}}
    assert on_cuda(row) == (gpu is not None)
