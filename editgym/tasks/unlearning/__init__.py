"""Machine unlearning in image classifiers: the task, its goals, data, networks and oracle."""

from editgym.tasks.unlearning.splits import Splits
from editgym.tasks.unlearning.task import UnlearningTask

__all__ = ["Splits", "UnlearningTask"]
