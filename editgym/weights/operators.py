"""How an update D changes a weight matrix W: by scaling it or by adding to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from editgym.checks import above
from editgym.weights.factors import Update


@dataclass(frozen=True)
class Mask:
    """MaskWorld's operator: W ∘ clip(1 + D, 0, 1), the box [0, 1] of Malik (2026), with D = 0 for
    no edit.
    """

    def edited(self, weight: Tensor, update: Update) -> Tensor:
        """The edited weights, (..., out, in), for one network or for K candidates."""
        d = update.matrix()
        # Equal to (1 + d).clamp(0, 1), but with the gradient from below at d = 0, where every
        # episode starts.
        return weight * torch.where(d > 0, 1.0, 1 + d).clamp(
            min=0
        )  # d > 0, not d <= 0: nan has to stay nan


@dataclass(frozen=True)
class Shift:
    """ShiftWorld's operator: W + limit · D; with D in [−1, 1] and limit 0.05 the box ±0.05 of Malik
    (2026).
    """

    limit: float = 1.0

    def __post_init__(self) -> None:
        # A number of NumPy's could not be written to a journal's file later.
        real = isinstance(self.limit, np.integer | np.floating)
        limit = float(self.limit) if real else self.limit
        above(0)("shift_limit", limit)
        object.__setattr__(self, "limit", float(limit))

    def edited(self, weight: Tensor, update: Update) -> Tensor:
        """The edited weights, (..., out, in), for one network or for K candidates."""
        return weight + self.delta(update)

    def delta(self, update: Update) -> Tensor:
        """What is added to the weights, (..., out, in)."""
        return self.limit * update.matrix()


Operator = Mask | Shift
