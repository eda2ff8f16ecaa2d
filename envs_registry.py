"""The table of editgym's environments and the loop that registers them.

It imports gymnasium alone and names classes by string, so that `import editgym` costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym


@dataclass(frozen=True)
class Environment:
    """One row: an id, the class of one environment, and that of K candidates at once."""

    id: str
    entry_point: str
    vector_entry_point: str | None = None


ENVIRONMENTS = (
    Environment("MaskWorld-v0", "editgym.envs.mask_world:MaskWorldEnv", "editgym.envs.mask_world:MaskWorldVectorEnv"),
    Environment("ShiftWorld-v0", "editgym.envs.shift_world:ShiftWorldEnv",
                "editgym.envs.shift_world:ShiftWorldVectorEnv"),
)


def register_all() -> None:
    """Register every row with Gymnasium; rows that are there already are left alone.

    Raises:
        ValueError: Two rows have the same id.
    """
    ids = [row.id for row in ENVIRONMENTS]
    if len(set(ids)) != len(ids):
        raise ValueError(f"ENVIRONMENTS has an id twice: {sorted(ids)}")
    for row in ENVIRONMENTS:
        if row.id not in gym.registry:
            gym.register(row.id, row.entry_point, vector_entry_point=row.vector_entry_point)
