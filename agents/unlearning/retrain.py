"""Retraining as the oracle of unlearning, and what all agents share that work on the model and its
training data.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import nn

from agents.configured import ConfiguredAgent
from agents.protocol import Access, Budget, Unsupported
from editgym.tasks.unlearning import UnlearningTask
from editgym.weights import EditableNetwork, EditJournal, ReplaceTensors


class Retrain(ConfiguredAgent):
    """The oracle: the same recipe and seed on the training data without what is to be forgotten."""

    name = "retrain"
    access: ClassVar[Access] = "oracle"

    def __init__(self) -> None:
        self.config = {}

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing to learn.

        Raises:
            Unsupported: The task's network was not trained here, so its retrained twin cannot be
                made.
        """
        task = unlearning_task(gym.make(env_spec))
        if task.retrain is None:
            raise Unsupported(
                f"{task.name}: the network was trained elsewhere, so it cannot be retrained without"
                " the forgotten data"
            )

    def edit(self, env: gym.Env) -> EditJournal:
        """Put the retrained network in place of the one of a fresh episode."""
        task, network, goal = start(env)
        oracle = task.oracle([n.base_hash for n in task.networks].index(network.base_hash), goal)
        if oracle is None:
            raise Unsupported(f"{task.name} cannot be retrained")
        return replace(env, oracle)


def unlearning_task(env: gym.Env) -> UnlearningTask:
    """The environment's task.

    Raises:
        Unsupported: It is not an unlearning task.
    """
    task = env.unwrapped.task  # type: ignore[attr-defined]
    if not isinstance(task, UnlearningTask):
        raise Unsupported(f"{task.name} is not an unlearning task")
    return task


def start(env: gym.Env) -> tuple[UnlearningTask, EditableNetwork, int]:
    """Reset and return task, network and goal index of the episode."""
    _, info = env.reset()
    return unlearning_task(env), env.unwrapped.network, info["goal"]  # type: ignore[attr-defined]


def replace(env: gym.Env, model: nn.Module) -> EditJournal:
    """Put a whole network's tensors in place of the edited one's, where they differ."""
    network = env.unwrapped.network  # type: ignore[attr-defined]
    before = network.state_dict()
    changed = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if not torch.equal(tensor.to(before[name].device), before[name])
    }
    network.apply(ReplaceTensors(changed))
    return network.journal
