"""An environment of one's own: one 2×2 matrix, to be moved towards a target.

It owes what `editgym.envs.protocol.EditEnv` lists, the counting of rewards, and a metric family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from torch import Tensor

from editgym.envs import metering
from editgym.metrics.evaluation import Evaluation
from editgym.weights import ActionLayout, EditJournal, Shift, SiteEdit


class MatrixEnv(gym.Env[np.ndarray, np.ndarray], EzPickle):
    """One matrix under edit.

    **Observation**: its four numbers. **Action**: D, in [−1, 1]; 0.5·D is added. **Reward**: minus
    the distance from the target. **End**: after one step.

    Args:
        task: The name of what is edited, for rows and tables.
        model_seed: Draws the matrix.
        device: `cpu`; the harness hands it to every environment.
    """

    def __init__(
        self, task: str = "matrix/small", model_seed: int = 0, device: str = "cpu"
    ) -> None:
        EzPickle.__init__(self, task, model_seed, device)
        self.observation_space = spaces.Box(-5.0, 5.0, (4,), np.float32)
        self.layout = ActionLayout(((2, 2),), "full")
        self.action_space = spaces.Box(-1.0, 1.0, (self.layout.size,), np.float32)
        self.episode_length = 1
        self.choices: Mapping[str, int] = {}
        generator = torch.Generator().manual_seed(model_seed)
        self._base = torch.rand(2, 2, generator=generator)
        self._target = torch.full((2, 2), 0.5)
        self.journal = EditJournal(f"matrix {model_seed}")

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Take every edit back."""
        super().reset(seed=seed)
        self.journal = EditJournal(self.journal.base_hash)
        return self._matrix(self.journal).flatten().numpy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply one edit and score it."""
        (update,) = self.layout.unpack(torch.from_numpy(np.array(action, np.float32)))
        self.journal.append(SiteEdit("matrix", Shift(0.5), update, self.journal.steps))
        metering.record(1)  # one reward was computed: budgets count it
        matrix = self._matrix(self.journal)
        return matrix.flatten().numpy(), -self._distance(matrix), True, False, {}

    def evaluate(self, journal: EditJournal) -> Evaluation:
        """How far the matrix is from the target, after and before."""
        metrics = {
            "distance": self._distance(self._matrix(journal)),
            "distance_before": self._distance(self._base),
        }
        return Evaluation(metrics)

    def _matrix(self, journal: EditJournal) -> Tensor:
        matrix = self._base
        for entry in journal:
            assert isinstance(entry, SiteEdit)
            matrix = entry.operator.edited(matrix, entry.update)
        return matrix

    def _distance(self, matrix: Tensor) -> float:
        return float((matrix - self._target).norm())


gym.register("OwnMatrix-v0", entry_point=MatrixEnv)
