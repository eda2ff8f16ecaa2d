"""Classical unlearning on the model and its training data: fine-tuning, and retraining as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import torch
import torch.nn.functional as F
from gymnasium.envs.registration import EnvSpec
from torch import nn

from agents.configured import ConfiguredAgent
from agents.protocol import Access, Budget, Unsupported
from editgym.models.training import one_thread
from editgym.tasks.unlearning import UnlearningTask
from editgym.weights import EditableNetwork, EditJournal, ReplaceTensors


class FineTune(ConfiguredAgent):
    """Fine-tune all weights on the retained training data and hope that the rest fades.

    SGD with momentum on the cross-entropy; batch-norm statistics stay as they are.

    Args:
        epochs: Passes over the retained part of the model split.
        learning_rate: Of SGD.
        momentum: Of SGD.
        batch_size: Samples a step.
        seed: Of the order of the samples; `learn` sets it.
    """

    name = "fine_tune"
    access: ClassVar[Access] = "data"

    def __init__(self, epochs: int = 5, learning_rate: float = 0.01, momentum: float = 0.9,
                 batch_size: int = 64, seed: int = 0) -> None:
        self.config = {"epochs": epochs, "learning_rate": learning_rate, "momentum": momentum,
                       "batch_size": batch_size, "seed": seed}

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Keep the seed of the order of the samples; the work is done by `edit`, on the network at hand."""
        unlearning_task(gym.make(env_spec))
        self.config["seed"] = seed

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the network of a fresh episode."""
        task, network, goal = start(env)
        retain, _ = task.model_split(goal)
        model = network.merged()
        optimizer = torch.optim.SGD(model.parameters(), self.config["learning_rate"], self.config["momentum"])
        generator = torch.Generator().manual_seed(self.config["seed"])
        with one_thread():
            for _ in range(self.config["epochs"]):
                for rows in torch.randperm(len(retain), generator=generator).split(self.config["batch_size"]):
                    batch = retain[rows.to(task.device)]
                    optimizer.zero_grad(set_to_none=True)
                    F.cross_entropy(model(batch.inputs), batch.labels).backward()
                    optimizer.step()
        return replace(env, model)


class Retrain(ConfiguredAgent):
    """The oracle: the same recipe and seed on the training data without what is to be forgotten."""

    name = "retrain"
    access: ClassVar[Access] = "oracle"

    def __init__(self) -> None:
        self.config = {}

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing to learn.

        Raises:
            Unsupported: The task's network was not trained here, so its retrained twin cannot be made.
        """
        task = unlearning_task(gym.make(env_spec))
        if task.retrain is None:
            raise Unsupported(f"{task.name}: the network was trained elsewhere, so it cannot be retrained without "
                              "the forgotten data")

    def edit(self, env: gym.Env) -> EditJournal:
        """Put the retrained network in place of the one of a fresh episode."""
        task, network, goal = start(env)
        if task.retrain is None:
            raise Unsupported(f"{task.name} cannot be retrained")
        index = [n.base_hash for n in task.networks].index(network.base_hash)
        retain, _ = task.model_split(goal)
        return replace(env, task.retrain(index, retain, f"without: {task.goals[goal].label}"))


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
    changed = {name: tensor.detach() for name, tensor in model.state_dict().items()
               if not torch.equal(tensor.to(before[name].device), before[name])}
    network.apply(ReplaceTensors(changed))
    return network.journal
