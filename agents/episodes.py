"""What agents of several rooms ask of an environment's spec and of one of its episodes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec, load_env_creator
from torch import Tensor

from agents.protocol import Unsupported
from editgym.checks import Check, require_known
from editgym.envs.protocol import edit_env, open_env
from editgym.tasks import TASKS
from editgym.weights import EditJournal, ReplaceTensors

T = TypeVar("T")


def spec_arguments(spec: EnvSpec) -> dict[str, Any]:
    """The arguments of an environment made from `spec`, by name, without making it.

    What stands in the spec goes before the defaults of the environment's constructor and of its
    task's builder. An argument that is neither given nor has a default is left out.
    """
    arguments = {**_defaults(spec.entry_point), **spec.kwargs}
    return {**_defaults(_builder(arguments.get("task"))), **arguments}


def check_arguments(spec: EnvSpec, given: Mapping[str, Any], name: str) -> None:
    """Refuse arguments that an environment made from `spec` does not take, without making it.

    Names are known from the signatures of its constructor and of its task's builder, ranges where
    the class has a table of them, `checks`, as editgym's have.

    Args:
        spec: The environment's.
        given: Further arguments of it.
        name: What they were given as, for messages.

    Raises:
        ValueError: It takes no such argument, or a value is out of its range.
    """
    creator = _callable(spec.entry_point)
    known, hands_on = _takes(creator)
    if hands_on:
        builder = _callable(_builder({**spec_arguments(spec), **given}.get("task")))
        taken_by_task, hands_on = _takes(builder)
        known = known | taken_by_task
    if not hands_on:
        require_known(f"{name}: {spec.id} takes no argument", given, sorted(known))
    checks: Mapping[str, Check] = getattr(creator, "checks", {})
    for argument in checks.keys() & given.keys():
        checks[argument](f"{name}: {argument}", given[argument])


def _takes(creator: Any) -> tuple[set[str], bool]:
    """The names of a callable's arguments, and whether it takes others as well; what is no callable
    may take anything.
    """
    if creator is None:
        return set(), True
    parameters = inspect.signature(creator).parameters.values()
    others = [one for one in parameters if one.kind is one.VAR_KEYWORD]
    return {one.name for one in parameters if one not in others}, bool(others)


def _builder(task: Any) -> Any:
    """The builder of a task, as a callable or by import path; None where there is none."""
    return TASKS.get(task, task) if isinstance(task, str) else None


def _callable(creator: Any) -> Any:
    """A callable, or the one at an import path `package.module:name`; None where it is neither."""
    if isinstance(creator, str) and ":" in creator:
        creator = load_env_creator(creator)
    return creator if callable(creator) else None


def _defaults(creator: Any) -> dict[str, Any]:
    """The defaults of a callable, or of the one at an import path `package.module:name`."""
    creator = _callable(creator)
    if creator is None:
        return {}
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(creator).parameters.values()
        if parameter.default is not parameter.empty
    }


def task_name(spec: EnvSpec) -> str:
    """The name of the task of environments made from `spec`; empty where they have none."""
    return str(spec_arguments(spec).get("task", ""))


def steps_of(env: gym.Env) -> int:
    """The steps that an episode has: the environment's `episode_length`, or fewer where
    `max_episode_steps` of its spec truncates it.
    """
    length = edit_env(env).episode_length
    most = None if env.spec is None else env.spec.max_episode_steps
    return min(length, most) if most is not None and most > 0 else length


def shape_of_actions(env: gym.Env) -> tuple[int, ...]:
    """The shape of a whole episode's actions, (steps, action size)."""
    return (steps_of(env), *(edit_env(env).action_space.shape or ()))


def is_improving(spec: EnvSpec) -> bool:
    """Whether a reward of environments made from `spec` is what a step improved, and not the value
    of the weights after it.
    """
    return bool(spec_arguments(spec).get("reward") == "improvement")


def validation_env(spec: EnvSpec, seed: int) -> gym.Env:
    """An environment with validation streams of facts, just reset.

    They are as long as those of `spec`, or, since the validation split is smaller than the others,
    a half, a quarter, … of that: the longest that the split has requests for.

    Args:
        spec: An environment's spec with streams of facts.
        seed: Draws the stream.

    Raises:
        ValueError: The split has too few requests for a single step, or an argument is out of
            range.
    """
    own: dict[str, Any] = {"split": "validation", "journal_folder": None}
    env = gym.make(spec, **own)
    horizon = edit_env(env).episode_length
    while True:
        try:
            env.reset(seed=seed)
            return env
        except ValueError as error:
            env.close()
            if horizon == 1:
                raise ValueError(f"validation: {error}") from error
        horizon //= 2
        env = gym.make(spec, **own, horizon=horizon)


def task_of(env: gym.Env, kind: type[T], what: str) -> T:
    """The environment's task.

    Args:
        env: Whose task it is.
        kind: The class that it must have.
        what: That class in words, after "is not", for messages.

    Raises:
        Unsupported: It is another task, or the environment does not show it.
    """
    task = open_env(env).task
    if not isinstance(task, kind):
        raise Unsupported(f"{task.name} is not {what}")
    return task


def replace(env: gym.Env, tensors: Mapping[str, Tensor]) -> EditJournal:
    """Put tensors, by their names in a state dict, in place of the edited network's, where they
    differ; where none does, there is no edit.
    """
    network = open_env(env).network
    before = network.state_dict()
    changed = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if not torch.equal(tensor.to(before[name].device), before[name])
    }
    if changed:
        network.apply(ReplaceTensors(changed))
    return network.journal
