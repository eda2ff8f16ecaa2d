"""Fixed random projections: few numbers that stand for many, the same in every run."""

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


class BilinearSketch:
    """A matrix as s numbers r_iᵀ W c_i / √s with random signs r_i and c_i: norms and inner products
    in expectation.

    It holds s · (out + in) signs; a bucket and a sign for every weight would take more memory than
    the edits do.

    Args:
        rows: Rows of a matrix, out.
        columns: Columns of a matrix, in.
        size: Numbers of a sketch, s.
        device: Where the matrices are.
    """

    def __init__(self, rows: int, columns: int, size: int, device: torch.device) -> None:
        random = np.random.RandomState(rows * 65_537 + columns)  # its streams are frozen for good
        self._size = size
        self._left, self._right = (
            torch.from_numpy(random.randint(2, size=(size, side)).astype(np.float32) * 2 - 1).to(
                device
            )
            for side in (rows, columns)
        )

    def __call__(self, matrix: Tensor) -> Tensor:
        """(out, in) -> (s,)."""
        return (self._left @ matrix * self._right).sum(1) / self._size**0.5
