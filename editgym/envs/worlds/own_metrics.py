"""Metrics of one's own, by import path: functions whose values join an evaluation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

from editgym.checks import is_finite, shown
from editgym.imports import imported
from editgym.tasks.protocol import Task, network_of
from editgym.weights import EditableNetwork, EditJournal

Metric = Callable[[EditableNetwork, Task, int], float | None]
_WRITTEN = "package.module:function"


def own_metrics(paths: Sequence[str]) -> dict[str, Metric]:
    """The functions that import paths lead to, by their names.

    A metric is a function of the edited network, the task and the index of the goal, and returns a
    finite number, or None where the task has no such thing.

    Args:
        paths: `package.module:function` each.

    Raises:
        ValueError: It is no list of import paths, one leads nowhere or to something that takes
            other arguments, or two functions have one name.
    """
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        raise ValueError(f'metrics must be a list such as ["{_WRITTEN}"], got {shown(paths)}')
    found: dict[str, Metric] = {}
    for path in paths:
        function = imported(path, "metrics", _WRITTEN)
        name = path.partition(":")[2]
        if not callable(function) or not _takes_three(function):
            raise ValueError(
                f"metrics: {path!r} must be a function of the edited network, the task and the"
                f" index of the goal, such as `def {name}(network, task, goal)`"
            )
        if name in found:
            raise ValueError(
                f"metrics: {path!r} is the second function called {name!r}; values are kept by"
                " name, so give each its own"
            )
        found[name] = function
    return found


def measured(
    metrics: Mapping[str, Metric],
    task: Task,
    journal: EditJournal,
    goal: int,
    known: Mapping[str, float | None],
) -> dict[str, float | None]:
    """What the metrics say of an edit, by their names.

    Args:
        metrics: By name, as `own_metrics` makes them.
        task: The task.
        journal: The edit.
        goal: Index of its goal.
        known: What the task itself has measured.

    Raises:
        JournalError: The journal belongs to none of the task's networks.
        ValueError: A name is one of the task's metrics, or a value is no finite number.
    """
    values: dict[str, float | None] = {}
    for name, function in metrics.items():
        if name in known:
            raise ValueError(
                f"metrics: {task.name} has a metric {name!r} of its own; give the function another"
                " name"
            )
        # A network of its own for each: a function may train what it is given.
        value = function(network_of(task.networks, journal), task, goal)
        if value is not None and not is_finite(value):
            raise ValueError(
                f"metrics: {name} must return a finite number, a Python float, or None, got"
                f" {shown(value)}"
            )
        values[name] = value
    return values


def _takes_three(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True
