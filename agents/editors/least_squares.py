"""Recursive least squares: the joint solution of a stream of keys and values, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from editgym.weights import LowRankFactors


class RecursiveLeastSquares:
    """Edits min ‖(W − W₀) S₀^(−½)‖² + Σ_t ‖W K_t − V_t‖² as the K_t and V_t come in, O(n d²) each.

    With M = (I + KᵀSK)⁻¹ a batch changes W by R M KᵀS, R = V − WK, and S by −S K M Kᵀ S (Plackett
    1950). S is (S₀⁻¹ + Σ K_t K_tᵀ)⁻¹, so the sum of all changes is the joint solution, and every
    change equals the dense one of MEMIT's and AlphaEdit's equations with all earlier keys in it.

    All is in float64, W too: while edits nearly interpolate, V − WK is a small difference, which
    `remove` divides by another small one.

    Args:
        weight: W₀, (out, d).
        covariance: S₀, (d, d), symmetric and positive semidefinite. W changes only in its range.

    Attributes:
        w: W, (out, d).
        s: S, (d, d).
    """

    def __init__(self, weight: Tensor, covariance: Tensor) -> None:
        self.w, self.s = (x.to(torch.float64, copy=True) for x in (weight, covariance))

    def update(self, keys: Tensor, values: Tensor) -> LowRankFactors:
        """Take a batch in, and return W's change.

        Args:
            keys: K as rows, (n, d).
            values: V as rows, (n, out).
        """
        keys = keys.double()
        residuals = values.double() - keys @ self.w.mT
        spread = keys @ self.s  # KᵀS, (n, d)
        factor = torch.linalg.cholesky(eye(keys) + spread @ keys.mT)
        half = torch.linalg.solve_triangular(factor, spread, upper=False)
        self.s -= half.mT @ half
        return self._changed(LowRankFactors(torch.cholesky_solve(residuals, factor).mT, spread))

    def remove(self, keys: Tensor, values: Tensor) -> LowRankFactors:
        """Take a batch out again, as if it had never been among the K_t and V_t, and return W's
        change.

        W' = W − (V − WK) G KᵀS and S' = S + S K G Kᵀ S with G = (I − KᵀSK)⁻¹. Later keys stay what
        they were, also where a stream that never saw the batch would have had others.

        Args:
            keys: K as rows, (n, d), as they were given to `update`; of several batches at once too.
            values: V as rows, (n, out), likewise.

        Raises:
            ValueError: The keys were never taken in, or too much precision is lost to take them
                out.
        """
        keys = keys.double()
        residuals = values.double() - keys @ self.w.mT
        spread = keys @ self.s  # (n, d)
        factor, failed = torch.linalg.cholesky_ex(eye(keys) - spread @ keys.mT)
        if int(failed):
            raise ValueError(
                "these keys cannot be removed: they are not among those that were taken in"
            )
        half = torch.linalg.solve_triangular(factor, spread, upper=False)
        self.s += half.mT @ half
        return self._changed(LowRankFactors(-torch.cholesky_solve(residuals, factor).mT, spread))

    def _changed(self, update: LowRankFactors) -> LowRankFactors:
        self.w += update.matrix()
        return update


class Batch(NamedTuple):
    """What a step asked of one site: keys K (n, in) and values V (n, out) as rows, float32."""

    keys: Tensor
    values: Tensor

    def rows(self, chosen: Sequence[int]) -> Batch:
        """Some of the rows, copied."""
        return Batch(self.keys[chosen], self.values[chosen])

    def with_row(self, row: int, other: Batch) -> Batch:
        """The same with another key and value in a row; `other` has one row."""
        parts = [
            torch.cat([own[:row], one, own[row + 1 :]])
            for own, one in zip(self, other, strict=True)
        ]
        return Batch(*parts)


def eye(like: Tensor) -> Tensor:
    """The identity of a matrix's size, float64."""
    return torch.eye(len(like), dtype=torch.float64, device=like.device)
