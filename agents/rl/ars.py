"""ARS of sb3-contrib, with the reward calls that it makes."""

from __future__ import annotations

from typing import Any

from sb3_contrib import ARS
from stable_baselines3.common.callbacks import BaseCallback


class CountedARS(ARS):
    """ARS that counts every step of its environments once.

    sb3-contrib's own counts all environments for each of those whose episode it still evaluates: a
    budget that is divided among several of them is over long before it is spent.
    """

    def _trigger_callback(
        self,
        _locals: dict[str, Any],
        _globals: dict[str, Any],
        callback: BaseCallback,
        n_envs: int,
    ) -> None:
        # No slot has more episodes to be evaluated than the last one, so it is in every step.
        if _locals["i"] == n_envs - 1:
            super()._trigger_callback(_locals, _globals, callback, n_envs)
