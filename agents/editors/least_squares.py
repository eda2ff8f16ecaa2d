"""Recursive least squares: the joint solution of a stream of keys and values, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.editors.on_disk import MatrixOnDisk
from editgym.weights import LowRankFactors


class RecursiveLeastSquares:
    """Edits min ‖(W − W₀) S₀^(−½)‖² + Σ_t ‖W K_t − V_t‖² as the K_t and V_t come in, O(n d²) each.

    With M = (I + KᵀSK)⁻¹ a batch changes W by R M KᵀS, R = V − WK, and S by −S K M Kᵀ S (Plackett
    1950). S is (S₀⁻¹ + Σ K_t K_tᵀ)⁻¹, so the sum of all changes is the joint solution, and every
    change equals the dense one of MEMIT's and AlphaEdit's equations with all earlier keys in it.

    All is in float64, W too: while edits nearly interpolate, V − WK is a small difference, which
    `remove` divides by another small one.

    Between batches only the changes are in memory, as factors: S = S₀ + Σ_i σ_i h_i h_iᵀ and
    W = W₀ + Σ_i a_i h_iᵀ. S₀ and W₀ lie on disk; once there are d/4 changes, S and W take their
    place.

    Args:
        weight: W₀, (out, d).
        covariance: S₀, (d, d), symmetric and positive semidefinite. W changes only in its range.
    """

    def __init__(self, weight: Tensor, covariance: Tensor) -> None:
        self._begun = False
        self._h: Tensor  # h as rows, (changes, d)
        self._a: Tensor  # a as rows, (changes, out)
        self._signs: Tensor  # σ, (changes, 1)
        self._put(weight.double(), covariance.double())

    @property
    def w(self) -> Tensor:
        """W, (out, d)."""
        return self._w.read() + self._a.mT @ self._h

    @property
    def s(self) -> Tensor:
        """S, (d, d)."""
        return self._s.read() + (self._h * self._signs).mT @ self._h

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._h.device

    def outputs(self, keys: Tensor) -> Tensor:
        """W k for keys as rows, (n, d) -> (n, out), float64."""
        keys = keys.double()
        return keys @ self._w.read().mT + (keys @ self._h.mT) @ self._a

    def update(self, keys: Tensor, values: Tensor) -> LowRankFactors:
        """Take a batch in, and return W's change.

        Args:
            keys: K as rows, (n, d).
            values: V as rows, (n, out).
        """
        keys, residuals = keys.double(), values.double() - self.outputs(keys)
        spread = self._spread(keys)
        factor = torch.linalg.cholesky(eye(keys) + spread @ keys.mT)
        return self._changed(spread, residuals, factor, -1.0)

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
        keys, residuals = keys.double(), values.double() - self.outputs(keys)
        spread = self._spread(keys)
        factor, failed = torch.linalg.cholesky_ex(eye(keys) - spread @ keys.mT)
        if int(failed):
            raise ValueError(
                "these keys cannot be removed: they are not among those that were taken in"
            )
        return self._changed(spread, -residuals, factor, 1.0)

    def state(self) -> tuple[Tensor | None, ...]:
        """What it needs to go on: S and W where they are no longer those that it was made with, and
        the changes since.
        """
        begun = (self._w.read(), self._s.read()) if self._begun else (None, None)
        return (*begun, self._h, self._a, self._signs)

    def load(self, state: Sequence[Tensor | None]) -> None:
        """Go on from what `state` gave to one that was made with the same W₀ and S₀."""
        w, s, *changes = (None if one is None else one.to(self._h.device) for one in state)
        if w is not None and s is not None:
            self._put(w, s)
            self._begun = True
        if changes:
            self._h, self._a, self._signs = (one for one in changes if one is not None)

    def snapshot(self) -> tuple[Any, ...]:
        """Where it is, to go back to with `restore`; it shares everything with the solver, which
        changes none of it in place.
        """
        return self._begun, self._w, self._s, self._h, self._a, self._signs

    def restore(self, state: tuple[Any, ...]) -> None:
        """Go back to where `snapshot` was taken."""
        self._begun, self._w, self._s, self._h, self._a, self._signs = state

    def _put(self, w: Tensor, s: Tensor) -> None:
        """Begin anew with W and S, without a change."""
        self._w, self._s = MatrixOnDisk(w), MatrixOnDisk(s)
        self._h, self._a = s.new_empty(0, len(s)), s.new_empty(0, len(w))
        self._signs = s.new_empty(0, 1)

    def _spread(self, keys: Tensor) -> Tensor:
        """KᵀS, (n, d)."""
        return keys @ self._s.read() + (keys @ (self._h * self._signs).mT) @ self._h

    def _changed(
        self, spread: Tensor, residuals: Tensor, factor: Tensor, sign: float
    ) -> LowRankFactors:
        """Keep a batch's changes: with L the factor of M⁻¹, h the rows of L⁻¹KᵀS and a those of
        L⁻¹Rᵀ.
        """
        half = torch.linalg.solve_triangular(factor, spread, upper=False)
        self._h = torch.cat([self._h, half])
        self._a = torch.cat(
            [self._a, torch.linalg.solve_triangular(factor, residuals, upper=False)]
        )
        self._signs = torch.cat([self._signs, half.new_full((len(half), 1), sign)])
        if len(self._h) > half.shape[1] // 4:
            self._put(self.w, self.s)
            self._begun = True
        return LowRankFactors(torch.cholesky_solve(residuals, factor).mT, spread)


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
