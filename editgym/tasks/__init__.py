"""Tasks: what a good edit is. A task owns its networks, data splits, reward terms and metrics."""

from editgym.tasks.catalogue import TASKS, UnknownArgumentError, make_task
from editgym.tasks.protocol import Goal, RewardDefaults, Signal, Task

__all__ = ["TASKS", "Goal", "RewardDefaults", "Signal", "Task", "UnknownArgumentError", "make_task"]
