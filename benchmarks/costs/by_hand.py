"""The environment that one would write by hand, which the worlds are timed beside."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from editgym.tasks.unlearning.task import UnlearningTask

BATCH = 1024


class HandWrittenMaskWorld(gym.Env):
    """What one would write in an afternoon: a copy of the network, a weight set on it, a full
    forward pass.
    """

    def __init__(self, task: UnlearningTask, seed: int, rank: int = 4) -> None:
        self.model = copy.deepcopy(task.networks[0].base)
        layer = self.model.get_submodule(task.networks[0].sites[0].name)
        assert isinstance(layer, nn.Linear)
        self.layer = layer
        self.original = self.layer.weight.clone()
        self.images, self.labels = task.pool.inputs, task.pool.labels
        self.members = [task.goals[0].members[name] for name in ("retain", "forget")]
        self.rank = rank
        rows, columns = self.original.shape
        self.observation_space = spaces.Box(-5, 5, (rows * columns,), np.float32)
        self.action_space = spaces.Box(-1, 1, (rank * (rows + columns),), np.float32)
        self.generator = torch.Generator().manual_seed(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Set the original weight back."""
        super().reset(seed=seed)
        self.layer.weight.copy_(self.original)
        return self.layer.weight.cpu().numpy().flatten(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Mask the weight and score a fresh batch by the full forward pass."""
        rows, columns = self.original.shape
        factors = torch.from_numpy(action).to(self.original.device)
        a = factors[: rows * self.rank].view(rows, self.rank)
        b = factors[rows * self.rank :].view(self.rank, columns)
        self.layer.weight.copy_(
            self.layer.weight * (1 + (a @ b / self.rank**0.5).clamp(-1, 1)).clamp(0, 1)
        )
        scores = []
        for members in self.members:
            drawn = members[
                torch.randint(len(members), (BATCH,), generator=self.generator).to(members.device)
            ]
            probability = self.model(self.images[drawn]).softmax(-1)
            scores.append(float(probability.gather(1, self.labels[drawn].unsqueeze(1)).mean()))
        return (
            self.layer.weight.cpu().numpy().flatten(),
            3 * scores[0] - 2 * scores[1],
            True,
            False,
            {},
        )
