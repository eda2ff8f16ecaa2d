"""Whether an agent has left its process as it found it: the code that computes and counts rewards,
the networks and data of tasks, and the defaults of torch.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType, ModuleType
from typing import Any

import torch

from benchmarks.harness.fingerprints import content_hash
from editgym.tasks.catalogue import loaded_tasks

# Rewards are computed and counted there, and agents watched.
_WATCHED = (
    "editgym.envs",
    *(f"benchmarks.harness.{name}" for name in ("answering", "learning", "machine")),
)
_IN_CLASSES = (FunctionType, property, staticmethod, classmethod, cached_property)


class Code:
    """The functions of `editgym.envs`, and of the harness's half in the agent's process, as they
    are now, to be compared with later.
    """

    def __init__(self) -> None:
        self._before = dict(_definitions())

    def changed(self) -> list[str]:
        """The names of those that were replaced or rewritten since."""
        now = dict(_definitions())
        return [name for name, before in self._before.items() if not _same(before, now.get(name))]


class State:
    """What the next agent in a process would find otherwise, if one changed it."""

    def __init__(self) -> None:
        self._before: tuple[Code, list[tuple[Any, str]], dict[str, Any]] | None = None

    def take_down(self) -> None:
        """Take down how it is now."""
        tasks = [(task, _task_hash(task)) for task in loaded_tasks()]
        self._before = Code(), tasks, _defaults()

    def is_as_before(self) -> bool:
        """Whether it is as it was when it was taken down; it is not if it never was."""
        if self._before is None:
            return False
        code, tasks, defaults = self._before
        return (
            not code.changed()
            and _defaults() == defaults
            and all(_task_hash(task) == before for task, before in tasks)
        )


def _definitions() -> Iterator[tuple[str, tuple[object, object]]]:
    """The functions, methods and references to modules that are watched, each with its code."""
    for name, module in list(sys.modules.items()):
        if not any(name == one or name.startswith(f"{one}.") for one in _WATCHED):
            continue
        for key, value in list(vars(module).items()):
            if isinstance(value, FunctionType | ModuleType | type):
                yield f"{name}.{key}", (value, getattr(value, "__code__", None))
            if isinstance(value, type) and value.__module__ == name:
                for member, own in list(vars(value).items()):
                    if isinstance(own, _IN_CLASSES):
                        yield f"{name}.{key}.{member}", (own, getattr(own, "__code__", None))


def _same(before: tuple[object, object], now: tuple[object, object] | None) -> bool:
    return now is not None and before[0] is now[0] and before[1] is now[1]


def _task_hash(task: Any) -> str:
    """A hash of the networks of a task, unedited, and of its data."""
    networks = [network.state_dict() for network in getattr(task, "networks", ())]
    language = getattr(task, "language", None)
    if language is not None:
        networks.append(language.model.state_dict())
    return content_hash([networks, getattr(task, "splits", None)])


def _defaults() -> dict[str, Any]:
    """What torch computes with, and which threads there are."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "torch's threads": torch.get_num_threads(),
        "threads": {thread.ident for thread in threading.enumerate()},
    }
