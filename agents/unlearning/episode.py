"""What all unlearning agents share: the task of an environment, and the start of an episode."""

from __future__ import annotations

import gymnasium as gym

from agents.episodes import task_of
from editgym.envs.protocol import open_env
from editgym.tasks.protocol import Unlearnable
from editgym.weights import EditableNetwork


def unlearning_task(env: gym.Env) -> Unlearnable:
    """The environment's task.

    Raises:
        Unsupported: It is not an unlearning task.
    """
    kind: type[Unlearnable] = Unlearnable  # type: ignore[type-abstract]
    return task_of(env, kind, "an unlearning task")


def start(env: gym.Env) -> tuple[Unlearnable, EditableNetwork, int]:
    """Reset and return task, network and goal index of the episode."""
    _, info = env.reset()
    return unlearning_task(env), open_env(env).network, int(info["goal"])
