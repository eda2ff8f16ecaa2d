"""Rows as the runner would write them, without running anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.harness.isolation import Isolated
from benchmarks.harness.measure import Here
from benchmarks.report.families import FAMILIES
from benchmarks.results import Cell, Measurement, Row, build_row

PROVENANCE = {
    "versions": {"python": "3.11.7", "editgym": "0.1.0", "torch": "2.8.0"},
    "hardware": {
        "machine": "x86_64",
        "system": "Linux",
        "cpu": "a processor",
        "instructions": "AVX2",
        "cpu_count": 2,
        "gpu": None,
    },
    "git": None,
    "modules": {},
}


@pytest.fixture(scope="session")
def make_cell() -> Callable[..., Cell]:
    def make(
        agent: str = "random", seed: int = 0, task: str = "unlearning/digits", **changes: Any
    ) -> Cell:
        fields = {
            "suite": "quick",
            "env_id": "MaskWorld-v0",
            "env_kwargs": {"task": task, "model_seed": seed, "device": "cpu"},
            "agent_config": {},
            "reward_calls": 100,
            **changes,
        }
        return Cell(agent=agent, seed=seed, **fields)

    return make


@pytest.fixture(scope="session")
def make_row(make_cell: Callable[..., Cell]) -> Callable[..., Row]:
    """A finished row with the metrics that are given; `measured` replaces fields of the
    measurement."""

    def make(
        *cell: Any,
        metrics: dict[str, float] | None = None,
        measured: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Row:
        fields = {
            "status": "finished",
            "access": "reward",
            "metrics": metrics or {},
            "reward_calls": 100,
            "peak_memory_bytes": 2**28,
            "time": {"train_s": 12.5, "edit_s": 0.01, "eval_s": 0.4, "edits_per_s": 100.0},
            **(measured or {}),
        }
        return build_row(make_cell(*cell, **changes), Measurement(**fields), PROVENANCE)

    return make


@pytest.fixture(scope="session")
def unlearning_row(make_row: Callable[..., Row]) -> Callable[..., Row]:
    """A finished row of an unlearning task from its two main accuracies."""

    def make(
        *cell: Any,
        retain: float,
        forget: float,
        metrics: dict[str, float] | None = None,
        **changes: Any,
    ) -> Row:
        values = {
            "retain_accuracy": retain,
            "retain_accuracy_before": 0.95,
            "forget_accuracy": forget,
            "forget_accuracy_before": 0.9,
            **(metrics or {}),
        }
        return make_row(*cell, metrics=values, **changes)

    return make


@pytest.fixture(autouse=True)
def in_this_process(request, monkeypatch):
    """Cells run in the test's own process, where it may change tables and look at agents, unless
    the test is marked `isolated`."""
    if request.node.get_closest_marker("isolated") is None:
        for half in ("learn_and_edit", "evaluate"):
            monkeypatch.setattr(Isolated, half, getattr(Here, half))
        monkeypatch.setattr("benchmarks.harness.processes.prepare", lambda: None)


@pytest.fixture(autouse=True)
def families():
    """Families that a test's modules have added are taken away again."""
    before = dict(FAMILIES)
    yield
    FAMILIES.clear()
    FAMILIES.update(before)
