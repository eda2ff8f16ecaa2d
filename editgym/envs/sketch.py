"""A fixed random projection that stands for more numbers than an agent can look at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_PROJECTION_SEED = 20260613


class CountSketch:
    """A fixed sparse random projection (Charikar, Chen and Farach-Colton 2002).

    Every number is added, with a random sign, to one random bucket. That keeps norms and inner
    products in expectation, costs one pass over the numbers, needs no matrix, and is the same in
    every process and on every device.

    Args:
        numbers: How many are projected.
        size: Buckets.
        device: Where the numbers live.
    """

    def __init__(self, numbers: int, size: int, device: torch.device) -> None:
        # RandomState's streams are frozen for good, those of default_rng are not.
        random = np.random.RandomState(_PROJECTION_SEED)
        self.size = size
        self._buckets = torch.from_numpy(random.randint(size, size=numbers)).to(device)
        self._signs = torch.from_numpy(
            random.randint(2, size=numbers).astype(np.float32) * 2 - 1
        ).to(device)

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, numbers) -> (n, size)."""
        return rows.new_zeros(len(rows), self.size).index_add_(1, self._buckets, rows * self._signs)
