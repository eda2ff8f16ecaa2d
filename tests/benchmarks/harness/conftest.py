"""Rows that were really measured, of a toy."""

import importlib
from pathlib import Path

import pytest

import envs_registry
from benchmarks.harness.runner import run_cells
from benchmarks.suites.cells import SUITES, cells
from benchmarks.suites.entry import Entry, Suite
from envs_registry import Environment


@pytest.fixture
def stream_results(tmp_path, monkeypatch):
    """A folder with three rows of the toy stream, with journals and records, and the rows."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    row = Environment(
        "ToyStream-v0", "toy_editing:ToyStreamEnv", evaluation_kwargs={"split": "test"}
    )
    monkeypatch.setattr(envs_registry, "ENVIRONMENTS", (*envs_registry.ENVIRONMENTS, row))
    importlib.import_module("toy_editing")
    agents = ("toy_editing:StreamEditor",)
    entry = Entry("ToyStream-v0", "toy stream", agents, seed_kwarg="stream_seed")
    monkeypatch.setitem(SUITES, "stream", Suite("stream", 3, (entry,)))
    folder = tmp_path / "results"
    rows = run_cells(cells(SUITES["stream"]), folder)
    assert [row["status"] for row in rows] == ["finished"] * 3
    return folder, rows
