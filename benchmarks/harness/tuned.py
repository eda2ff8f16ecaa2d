"""Settings that a study found are for one model: whether a suite's cells are of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import gymnasium as gym

from agents.tune.settings_file import TunedSettings
from benchmarks.harness.measure import cell_spec
from benchmarks.harness.strangers import import_strangers, without_agent
from benchmarks.results import Cell, canonical_json


def check_tuned(tuned: Sequence[TunedSettings], cells: Sequence[Cell]) -> None:
    """Refuse to run cells with settings that were tuned for something else.

    Args:
        tuned: What studies found.
        cells: All cells; those of other agents are not looked at.

    Raises:
        ValueError: The settings are another model's or, in a world, another task's.
    """
    for one in tuned:
        own = [cell for cell in cells if cell.agent == one.agent]
        for cell in {_apart_from_seed(cell): cell for cell in own}.values():
            import_strangers(without_agent(cell))
            # On the CPU: the devices of a cluster's nodes need not be here.
            with closing(gym.make(cell_spec(cell), device="cpu")) as env:
                one.check_env(env)


def _apart_from_seed(cell: Cell) -> str:
    """Which model and task a cell is of; the seed draws one of a world's networks."""
    kwargs = {key: value for key, value in cell.env_kwargs.items() if key != "model_seed"}
    return canonical_json([cell.env_id, kwargs])
