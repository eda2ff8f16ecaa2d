"""What an agent sees: the current weights of the edited sites, or a random projection of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

_PROJECTION_SEED = 20260613


class WeightObserver:
    """Weights -> observation, float32, clipped to ±bound.

    Up to `max_raw` numbers the weights themselves, sites in order, each in C order. Above, a fixed sparse random
    projection to `projection_size` numbers: every weight is added, with a random sign, to one random bucket (count
    sketch; Charikar, Chen and Farach-Colton 2002). It keeps norms and inner products in expectation, costs one pass
    over the weights, needs no matrix, and is the same in every process and on every device.

    Args:
        shapes: (out, in) of every site.
        bound: Limit of every observed number.
        max_raw: How many weights are shown as they are.
        projection_size: Numbers shown above that.
        n_features: Numbers in 0–1 (the task's goal) appended at the end.
        device: Where the weights live.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], bound: float, max_raw: int, projection_size: int,
                 n_features: int, device: torch.device) -> None:
        self.bound = bound
        weights = sum(rows * columns for rows, columns in shapes)
        self._buckets: Tensor | None = None
        if weights > max_raw:
            # RandomState's streams are frozen for good, those of default_rng are not.
            random = np.random.RandomState(_PROJECTION_SEED)
            self._buckets = torch.from_numpy(random.randint(projection_size, size=weights)).to(device)
            signs = random.randint(2, size=weights).astype(np.float32) * 2 - 1
            self._signs = torch.from_numpy(signs).to(device)
        self._seen = projection_size if weights > max_raw else weights
        self.size = self._seen + n_features
        self.space = spaces.Box(-bound, bound, (self.size,), np.float32)

    def __call__(self, weights: Sequence[Tensor], features: Tensor | None = None) -> Tensor:
        """Observations (K, size) of K candidates.

        Args:
            weights: (K, out, in) per site.
            features: (K, n_features) or None.
        """
        flat = torch.cat([weight.flatten(1) for weight in weights], dim=1)
        if self._buckets is not None:
            projected = flat.new_zeros(len(flat), self._seen)
            flat = projected.index_add_(1, self._buckets, flat * self._signs)
        flat = flat.float().clamp(-self.bound, self.bound)
        return flat if features is None else torch.cat([flat, features], dim=1)
