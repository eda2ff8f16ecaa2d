"""Tasks: what a good edit is. A task owns its networks, data splits, reward terms and metrics."""

import importlib
from typing import TYPE_CHECKING, Any

from editgym.tasks.catalogue import TASKS, UnknownArgumentError, make_task

if TYPE_CHECKING:
    from editgym.tasks.protocol import Goal, RewardDefaults, Signal, Task

__all__ = ["TASKS", "Goal", "RewardDefaults", "Signal", "Task", "UnknownArgumentError", "make_task"]


def __getattr__(name: str) -> Any:
    """The protocol's names, when they are asked for: it loads PyTorch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("editgym.tasks.protocol"), name)
