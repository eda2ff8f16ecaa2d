"""Weights and activations as a few numbers, by random signs that every run shares."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


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
