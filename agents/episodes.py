"""What agents of several rooms ask of an environment's spec and of one of its episodes."""

from __future__ import annotations

from typing import TypeVar

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import nn

from agents.configured import spec_arguments
from agents.protocol import Unsupported
from editgym.envs.protocol import open_env
from editgym.weights import EditJournal, ReplaceTensors

T = TypeVar("T")


def task_name(spec: EnvSpec) -> str:
    """The name of the task of environments made from `spec`; empty where they have none."""
    return str(spec_arguments(spec).get("task", ""))


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


def replace(env: gym.Env, model: nn.Module) -> EditJournal:
    """Put a whole network's tensors in place of the edited one's, where they differ."""
    network = open_env(env).network
    before = network.state_dict()
    changed = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor.to(before[name].device), before[name])
    }
    network.apply(ReplaceTensors(changed))
    return network.journal
