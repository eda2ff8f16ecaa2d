"""Checks of what a user hands to an environment: arguments, tasks and actions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from editgym.checks import meant, shown
from editgym.tasks import TASKS, UnknownArgumentError, make_task

ACTION_TOLERANCE = 1e-6
T = TypeVar("T")
OutOfRange = Literal["clip", "error"]


def given(names: dict[str, Any]) -> dict[str, Any]:
    """The arguments that an environment's constructor was called with, its defaults among them.

    Args:
        names: The constructor's `locals()` on its first line; what it calls `task_arguments` is
            merged with the rest.
    """
    arguments = {k: v for k, v in names.items() if k not in ("self", "__class__")}
    return arguments | arguments.pop("task_arguments")


def task_for(
    kind: type[T],
    name: str,
    device: str,
    arguments: dict[str, Any],
    constructor: Callable[..., None],
) -> T:
    """The task called `name`, which has to be of the kind that an environment works with.

    A misspelt argument may have been meant for the environment, so the error tells its names too.

    Args:
        kind: The class that the task must have.
        name: The task's name in the catalogue, or an import path.
        device: Torch device.
        arguments: The task's arguments.
        constructor: The environment's constructor, whose arguments an error names.

    Raises:
        ValueError: There is no such task, or it is of another kind.
        UnknownArgumentError: The task takes no such argument.
    """
    own = [
        parameter.name
        for parameter in inspect.signature(constructor).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    try:
        task = make_task(name, device=device, **arguments)
    except UnknownArgumentError as error:
        raise UnknownArgumentError(
            f"{error}; the environment itself takes {', '.join(sorted(own))}"
            f"{meant(error.unknown, sorted(own))}"
        ) from None
    if not isinstance(task, kind):
        raise ValueError(
            f"task: {name!r} is a {type(task).__name__}, and this environment needs a"
            f" {kind.__name__}; the tasks are {', '.join(TASKS)}"
        )
    return task


def checked_action(
    action: object,
    shape: tuple[int, ...],
    device: torch.device,
    out_of_range: OutOfRange = "error",
) -> Tensor:
    """An action, or many, as a float32 tensor of this shape.

    Args:
        action: Numbers of any type that float32 can be made of; a tensor without gradients.
        shape: What it has to have.
        device: Where the tensor is to be.
        out_of_range: Whether finite numbers beyond ±1 are clipped or an error.

    Raises:
        ValueError: They are no numbers, the shape is wrong, or a number is not finite, or outside
            [−1, 1] where that is an error.
    """
    if isinstance(action, Tensor):
        action = _without_gradients(action)
    try:
        if out_of_range == "clip":
            # Before float32 makes infinities of what is too large for it.
            wide = np.asarray(action, dtype=np.float64)
            action = wide.clip(-1, 1) if np.isfinite(wide).all() else wide
        # A copy: callers reuse their buffers, journals look back.
        array = np.array(action, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"action must be an array of numbers of shape {shape}, got a"
            f" {type(action).__name__} that is none: {error}"
        ) from error
    if array.shape != shape:
        raise ValueError(f"action has shape {array.shape}, expected {shape}")
    largest = float(np.abs(array).max())
    if not largest <= 1 + ACTION_TOLERANCE:  # also catches nan, which compares false
        if not np.isfinite(largest):
            raise ValueError("action has values that are not finite; every number must be")
        raise ValueError(f"action reaches {largest}; every number must be in [-1, 1]")
    return torch.from_numpy(array).to(device)


def checked_options(options: object) -> Mapping[str, Any]:
    """The options of a world's reset, by name.

    Raises:
        ValueError: They are none.
    """
    given = {} if options is None else options
    if not isinstance(given, Mapping):
        raise ValueError(
            'options must be a dict such as {"network": 0, "goal": 1}, or None, got'
            f" {shown(options)}"
        )
    return given


def _without_gradients(action: Tensor) -> Tensor:
    """A tensor that NumPy can read."""
    if action.requires_grad:
        raise ValueError(
            "action must be numbers alone, got a tensor with gradients, which step() would lose:"
            " use differentiable_step() where the environment has it, or give action.detach()"
        )
    action = action.cpu()
    return action.float() if action.dtype == torch.bfloat16 else action
