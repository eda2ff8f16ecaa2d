"""Weight updates in closed form from keys and output gradients, as factors, never as a dense in ×
in solve.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from editgym.weights.factors import LowRankFactors

_EPSILON = 1e-6


class RunningStandardization:
    """Mean and variance of every feature over all rows seen so far (Welford; Chan, Golub and
    LeVeque 1983).

    With one row, or with a feature that hardly varied beside the others (a millionth of their root
    mean square), the variance counts as 1: nothing is divided by zero. Rows that are not finite are
    not taken in. No row of n that were seen is further than (n − 1)/√n standard deviations from
    their mean (Samuelson 1968), and others are held within that, or within 1 where n is 1: of a few
    rows some features vary by chance alone hardly at all, and a row that is looked at again after
    an edit would be thousands of deviations away.

    Args:
        size: Number of features.
        device: Where the statistics live.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(size, device=device)
        self.squares = torch.zeros(size, device=device)

    def update(self, rows: Tensor) -> None:
        """Take in rows (n, size)."""
        if not bool(torch.isfinite(rows).all()):
            rows = rows[torch.isfinite(rows).all(1)]
        n = len(rows)
        if not n:
            return
        mean = rows.mean(0)
        difference, total = mean - self.mean, self.count + n
        self.squares = (
            self.squares
            + (rows - mean).square().sum(0)
            + difference.square() * (self.count * n / total)
        )
        self.mean = self.mean + difference * (n / total)
        self.count = total

    def __call__(self, rows: Tensor) -> Tensor:
        """Rows (n, size) in standard deviations from the mean, by the statistics so far."""
        variance = self.squares / max(1, self.count - 1)
        spread = torch.where(
            variance > _EPSILON**2 * variance.mean(), variance, torch.ones_like(variance)
        ).sqrt()
        limit = max(1, self.count - 1) / math.sqrt(max(1, self.count)) + _EPSILON
        return ((rows - self.mean) / spread).clamp(-limit, limit)

    def state_dict(self) -> dict[str, Any]:
        """The statistics."""
        return {"count": self.count, "mean": self.mean.clone(), "squares": self.squares.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Statistics that `state_dict` gave.

        Raises:
            ValueError: They are of rows of another width; nothing has changed then.
        """
        own = {name: state[name].to(self.mean, copy=True) for name in ("mean", "squares")}
        for name, tensor in own.items():
            if tensor.shape != self.mean.shape:
                raise ValueError(
                    f"state: {name} must have the shape {tuple(self.mean.shape)}, got"
                    f" {tuple(tensor.shape)}"
                )
        self.count, self.mean, self.squares = state["count"], own["mean"], own["squares"]


def least_squares(values: Tensor, keys: Tensor, ridge: float | Tensor = 1.0) -> LowRankFactors:
    """ΔW = V Kᵀ (K Kᵀ + λI)⁻¹, MALMEN's (Tan et al. 2024, eq. 5), computed as V (KᵀK + λI)⁻¹ Kᵀ.

    The push-through identity turns the in × in solve into an n × n one. Differentiable in all
    arguments.

    Args:
        values: V as rows, (n, out).
        keys: K as rows, (n, in).
        ridge: λ > 0.

    Returns:
        A = V (KᵀK + λI)⁻¹ (out, n) and B = Kᵀ (n, in).

    Raises:
        FloatingPointError: The keys are so large that λ is lost in rounding.
    """
    gram = keys @ keys.mT  # (n, n)
    raised = gram + ridge * torch.eye(len(keys), device=keys.device, dtype=keys.dtype)
    solved, singular = torch.linalg.solve_ex(raised, values)
    if bool(singular.any()):
        raise FloatingPointError(
            f"keys reach {float(keys.detach().abs().max()):.1e}, and K Kᵀ + λI is singular in"
            f" {keys.dtype}: the model has collapsed"
        )
    return LowRankFactors(solved.mT, keys)


def ultraedit(
    keys: Tensor, standard_keys: Tensor, standard_gradients: Tensor, step_size: float
) -> LowRankFactors:
    """v = −η ‖k̂‖² ĝ, then `least_squares` with λ = 1 (Gu et al. 2025).

    Args:
        keys: K as rows, (n, in).
        standard_keys: k̂, (n, in).
        standard_gradients: ĝ, (n, out).
        step_size: η.
    """
    strength = standard_keys.square().sum(1, keepdim=True)
    return least_squares(-step_size * strength * standard_gradients, keys)


class UltraEdit:
    """The training-free update of UltraEdit over a stream (`ultraedit`).

    k̂ and ĝ are keys and gradients standardised by statistics that run over the whole stream; the
    keys in the solve are raw.

    Args:
        shape: (out, in) of the site.
        device: Where keys and gradients live.
    """

    def __init__(self, shape: tuple[int, int], device: torch.device | str = "cpu") -> None:
        self.gradients = RunningStandardization(shape[0], device)
        self.keys = RunningStandardization(shape[1], device)

    def observe(self, keys: Tensor, gradients: Tensor) -> None:
        """Take keys (n, in) and gradients (n, out) into the running statistics."""
        self.keys.update(keys)
        self.gradients.update(gradients)

    def update(
        self, keys: Tensor, gradients: Tensor, step_size: float, observe: bool = True
    ) -> LowRankFactors:
        """The update for one batch; the running statistics take the batch in first.

        Args:
            keys: (n, in).
            gradients: (n, out).
            step_size: η.
            observe: Whether they do; not where the batch is looked at again, or where `observe` has
                taken in a part of it.
        """
        if observe:
            self.observe(keys, gradients)
        return ultraedit(keys, self.keys(keys), self.gradients(gradients), step_size)

    def state_dict(self) -> dict[str, Any]:
        """The running statistics."""
        return {"gradients": self.gradients.state_dict(), "keys": self.keys.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Statistics that `state_dict` gave."""
        self.gradients.load_state_dict(state["gradients"])
        self.keys.load_state_dict(state["keys"])


def principal_directions(update: LowRankFactors) -> LowRankFactors:
    """A·B by its singular directions, largest first, through its factors: A = U Σ (out, n), B = Vᵀ
    (n, in).

    By the Gram matrices of the factors, in float64; what is decomposed is n × n, on the CPU, where
    that is faster also for a GPU's factors. Directions that the factors do not span are zero. A
    direction's sign is that of the largest entry of its u, made positive, so that it does not
    depend on the solver.

    Raises:
        FloatingPointError: The factors are not finite.
    """
    left, right = update.a.double() * update.scale, update.b.double()
    left_roots, left_inverse = _roots(left.mT @ left)
    right_roots, right_inverse = _roots(right @ right.mT)
    u, sigma, vh = torch.linalg.svd(left_roots.mT @ right_roots)
    count = min(len(left), len(sigma), right.shape[1])
    u, sigma, vh = u[:, :count], sigma[:count], vh[:count]
    a = (left @ (left_inverse @ (u * sigma)).to(left.device)).to(update.a.dtype)
    b = ((vh @ right_inverse.mT).to(right.device) @ right).to(update.b.dtype)
    sign = torch.sign(torch.gather(a, 0, a.abs().argmax(0, keepdim=True)))
    sign = torch.where(sign == 0, torch.ones_like(sign), sign)
    return LowRankFactors(a * sign, b * sign.mT)


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """R and T, (n, n) on the CPU, with R Rᵀ the Gram matrix of columns X, and X T orthonormal where
    X has full rank.
    """
    if not bool(torch.isfinite(gram).all()):
        raise FloatingPointError(
            "keys or output gradients are not finite: in half precision they overflowed; give the "
            'model another dtype, "bfloat16" or "float32"'
        )
    values, vectors = torch.linalg.eigh(gram.cpu())
    there = values > 1e-14 * values[-1]
    roots = torch.where(there, values, 0.0).sqrt()
    return vectors * roots, vectors * torch.where(there, 1 / roots, 0.0)
