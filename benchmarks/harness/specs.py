"""The environments of a cell."""

from __future__ import annotations

from gymnasium.envs.registration import EnvSpec

import editgym  # noqa: F401 - registers the environments
from benchmarks.results import Cell
from envs_registry import environment_spec


def cell_spec(cell: Cell, *, evaluation: bool = False) -> EnvSpec:
    """The spec that makes the cell's environment: to learn in, or to edit, evaluate and validate
    in.
    """
    return environment_spec(cell.env_id, cell.env_kwargs, evaluation=evaluation)
