"""Tasks by name. A new task is one builder function and one row of this table.

A stranger's task needs no row: its name is its builder's import path, `package.module:builder`.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from typing import Any

from editgym.checks import meant
from editgym.imports import imported, is_import_path
from editgym.models.known import fetched_folder
from editgym.paths import FileStates, cache_folder, data_folder, file_states

TASKS: dict[str, str] = {
    "unlearning/digits": "editgym.tasks.unlearning.images:digits",
    "unlearning/backdoor": "editgym.tasks.unlearning.backdoor:backdoor",
    "unlearning/mnist": "editgym.tasks.unlearning.images:mnist",
    "unlearning/cifar10": "editgym.tasks.unlearning.images:cifar10",
    "unlearning/custom": "editgym.tasks.unlearning.own_images:custom",
    "debiasing/templates": "editgym.tasks.debiasing.texts:templates",
    "debiasing/toxicity": "editgym.tasks.debiasing.texts:toxicity",
    "debiasing/transformer": "editgym.tasks.debiasing.texts:transformer",
    "knowledge/factworld": "editgym.tasks.knowledge.factworld:factworld",
    "knowledge/zsre": "editgym.tasks.knowledge.files:zsre",
    "knowledge/counterfact": "editgym.tasks.knowledge.files:counterfact",
    "knowledge/custom": "editgym.tasks.knowledge.files:custom",
}


class UnknownArgumentError(ValueError, TypeError):
    """An argument that a task does not take.

    Clients such as TorchRL's `GymEnv` try arguments of their own, and take them back on the
    TypeError that says "unexpected keyword argument 'NAME'", as Python's does.

    Attributes:
        unknown: The arguments that the task does not take.
    """

    unknown: tuple[str, ...] = ()


def make_task(name: str, *, device: str = "cpu", **arguments: Any) -> Any:
    """The task called `name`, unedited.

    A task is loaded once per process and set of arguments, and again when a file among these has
    changed: the environments that share it edit networks of their own.

    Args:
        name: A row of `TASKS`, or the import path of a builder, `package.module:builder`: a
            function of `device` and the task's own arguments that returns a task.
        device: `cpu`, `cuda` or `cuda:N`.
        **arguments: What the builder takes, plain JSON values.

    Raises:
        ValueError: There is no such task, or the device is not there.
        UnknownArgumentError: The task takes no such argument.
    """
    if name not in TASKS and not is_import_path(name):
        near = difflib.get_close_matches(str(name), TASKS, n=3, cutoff=0.0)
        raise ValueError(
            f"task: there is no {name!r}; the nearest of {len(TASKS)} are {', '.join(near)}. Your"
            " own builder is written package.module:builder"
        )
    parameters = inspect.signature(_builder(name)).parameters
    accepted = set(parameters) - {"name"}
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    unknown = [] if takes_all else sorted(set(arguments) - accepted)
    if unknown:
        error = UnknownArgumentError(
            f"unexpected keyword argument {unknown[0]!r}: {name} takes no argument"
            f" {', '.join(map(repr, unknown))}; it takes {', '.join(sorted(accepted))}"
            f"{meant(unknown, sorted(accepted))}{_takers(name, set(arguments))}"
        )
        error.unknown = tuple(unknown)
        raise error
    required = [
        one
        for one, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind
        in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    if missing := [one for one in required if one not in {"device", *arguments}]:
        raise ValueError(
            f"{name} needs {' and '.join(missing)}, which must be given"
            f" ({', '.join(f'{one}=…' for one in missing)}); it takes {', '.join(sorted(accepted))}"
        )
    _check_plain(name, arguments)
    return _load(
        name,
        checked_device(device),
        json.dumps(arguments, sort_keys=True),
        str(data_folder()),
        str(cache_folder()),
        _state_of(arguments),
    )


def _takers(name: str, arguments: Set[str]) -> str:
    """What is said of other tasks of a task's family that take all of these arguments."""
    family = name.partition("/")[0]
    takers = [
        other
        for other in TASKS
        if other.partition("/")[0] == family
        and arguments <= inspect.signature(_builder(other)).parameters.keys()
    ]
    return f"; task={' or '.join(map(repr, takers))} takes them all" if takers else ""


def _check_plain(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a saved spec of the environment could not hold."""
    for argument, value in arguments.items():
        try:
            json.dumps(value, sort_keys=True)
        except TypeError as error:
            own = getattr(value, "__qualname__", type(value).__qualname__)
            remedy = (
                f"; what is your own is given by its import path: {argument}='my_module:{own}'"
                if callable(value)
                else ""
            )
            raise ValueError(
                f"{name}: {argument} must be plain JSON values so that the environment's spec can"
                f" be saved: {error}{remedy}"
            ) from error


# Tasks that somebody has are found again; beyond these, so many of the latest are kept: language
# models are large.
_alive: weakref.WeakValueDictionary[tuple[Any, ...], Any] = weakref.WeakValueDictionary()
_latest: dict[bool, deque[Any]] = {True: deque(maxlen=1), False: deque(maxlen=8)}


def loaded_tasks() -> list[Any]:
    """The tasks that this process has loaded and would hand out again."""
    return list(_alive.values())


def _load(name: str, device: str, arguments: str, data: str, cache: str, files: FileStates) -> Any:
    # `data` and `cache` are read from the environment by the loaders; like `files` they stand here
    # as part of the key.
    key = (name, device, arguments, data, cache, files)
    task = _alive.get(key)
    if task is None:
        import torch  # not above: the table of tasks is read where nothing is computed

        # To build a network draws numbers; and whoever finds it again may need its gradients.
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            task = _builder(name)(device=device, **json.loads(arguments))
        with suppress(TypeError):  # what cannot be found again is no task: None, or a dict
            _alive[key] = task
    latest = _latest[name.startswith("knowledge/")]
    if not any(task is one for one in latest):
        latest.append(task)
    return task


def _state_of(arguments: Mapping[str, Any]) -> FileStates:
    """The states of the files among the arguments: a changed one is loaded anew."""
    return file_states(
        *(
            path
            for given in arguments.values()
            for value in (given if isinstance(given, list | tuple) else [given])
            if isinstance(value, str) and value
            for path in (
                os.path.expanduser(value),
                os.path.join(data_folder(), value),
                str(fetched_folder(value)),
            )
        )
    )


def _builder(name: str) -> Callable[..., Any]:
    found = imported(TASKS.get(name, name), "task", "package.module:builder")
    if not callable(found) or "device" not in inspect.signature(found).parameters:
        raise ValueError(
            f"task: {name!r} is no builder of a task: a builder is a function of `device` and the"
            " task's own arguments, such as `def builder(device, size=8)`, that returns a task"
            " (editgym.tasks.protocol.Task)"
        )
    return found


def checked_device(device: str) -> str:
    """The device's name, if it is there.

    Raises:
        ValueError: It is no device, or there is no such GPU.
    """
    import torch  # not above: the table of tasks is read where nothing is computed

    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'device: {device!r} is not a device; use "cpu", "cuda" or "cuda:N"'
        ) from error
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: {device!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices"
        )
    if parsed.type not in ("cpu", "cuda"):
        raise ValueError(f'device: {device!r} is not supported; use "cpu", "cuda" or "cuda:N"')
    return str(parsed)
