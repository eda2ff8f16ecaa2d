"""What agents of several rooms ask of an environment's spec and of one of its episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.configured import spec_arguments
from agents.protocol import Unsupported
from editgym.envs.protocol import edit_env, open_env
from editgym.weights import EditJournal, ReplaceTensors

T = TypeVar("T")


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
