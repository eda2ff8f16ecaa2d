"""Weight updates: low-rank factors or a whole matrix, and how a flat action vector holds one per
site.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Rank = int | Literal["full"]
Origin = Literal["zero", "lora"]

_LORA_SEED = 20260613
_LORA_SPREAD = 0.5


@dataclass(frozen=True)
class LowRankFactors:
    """An update D = clip(scale · A·B, −bound, bound), of one network or of K candidates.

    Attributes:
        a: (..., out, r).
        b: (..., r, in).
        scale: Factor on the product.
        bound: Elementwise limit of D; None leaves the product as it is, and D of rank r.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.a.shape[-1] != self.b.shape[-2]:
            raise ValueError(
                f"a must be (..., out, r) and b (..., r, in) of one r, got {tuple(self.a.shape)}"
                f" and {tuple(self.b.shape)}"
            )

    def matrix(self) -> Tensor:
        """D, (..., out, in)."""
        if self.a.ndim == 3 and len(self.a) == 1:
            # One candidate takes the very product that replaying its journal takes, so both agree
            # bitwise.
            return (
                LowRankFactors(self.a[0], self.b[0], self.scale, self.bound).matrix().unsqueeze(0)
            )
        product = self.a @ self.b * self.scale
        return product if self.bound is None else product.clamp(-self.bound, self.bound)

    @property
    def shape(self) -> torch.Size:
        """Shape of D, (..., out, in)."""
        return self.a.shape[:-1] + self.b.shape[-1:]

    def to(self, device: torch.device) -> LowRankFactors:
        """The same update on another device."""
        return LowRankFactors(self.a.to(device), self.b.to(device), self.scale, self.bound)

    def widened(self) -> LowRankFactors:
        """The same update in float32 where it is in half precision."""
        return LowRankFactors(widened(self.a), widened(self.b), self.scale, self.bound)

    def detached(self) -> LowRankFactors:
        """A copy that shares neither memory nor gradients."""
        return LowRankFactors(
            self.a.detach().clone(), self.b.detach().clone(), self.scale, self.bound
        )

    def plus(self, other: LowRankFactors) -> LowRankFactors:
        """The sum of two unclipped updates of one site, with the ranks of both.

        Raises:
            ValueError: One is clipped.
        """
        if self.bound is not None or other.bound is not None:
            raise ValueError(
                f"clipped updates have no sum in factors: bounds {self.bound} and {other.bound}"
            )
        a = torch.cat([self.a * self.scale, other.a * other.scale], dim=-1)
        return LowRankFactors(a, torch.cat([self.b, other.b], dim=-2))

    def candidate(self, index: int) -> LowRankFactors:
        """The update of one candidate out of K, copied so that it outlives the batch."""
        return LowRankFactors(
            self.a[index].detach().clone(), self.b[index].detach().clone(), self.scale, self.bound
        )


@dataclass(frozen=True)
class DenseUpdate:
    """An update D = clip(d, −bound, bound) given entry by entry, of one network or of K candidates.

    Attributes:
        d: (..., out, in).
        bound: Elementwise limit of D, or None.
    """

    d: Tensor
    bound: float | None = None

    def matrix(self) -> Tensor:
        """D, (..., out, in)."""
        return self.d if self.bound is None else self.d.clamp(-self.bound, self.bound)

    @property
    def shape(self) -> torch.Size:
        """Shape of D, (..., out, in)."""
        return self.d.shape

    def to(self, device: torch.device) -> DenseUpdate:
        """The same update on another device."""
        return DenseUpdate(self.d.to(device), self.bound)

    def widened(self) -> DenseUpdate:
        """The same update in float32 where it is in half precision."""
        return DenseUpdate(widened(self.d), self.bound)

    def detached(self) -> DenseUpdate:
        """A copy that shares neither memory nor gradients."""
        return DenseUpdate(self.d.detach().clone(), self.bound)

    def candidate(self, index: int) -> DenseUpdate:
        """The update of one candidate out of K, copied so that it outlives the batch."""
        return DenseUpdate(self.d[index].detach().clone(), self.bound)


Update = LowRankFactors | DenseUpdate


def widened(tensor: Tensor) -> Tensor:
    """A tensor in float32 where it is in half precision, else as it is."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


@dataclass(frozen=True)
class ActionLayout:
    """How a flat action holds an update for every site.

    Per site, in order: A (out × r) then B (r × in), each raveled in C order; with `rank="full"` D
    (out × in) itself. D = clip(A·B/√r, −1, 1): the source (Malik 2026) gives the box of D but not
    how a product of factors is kept in it. Dividing by √r keeps the spread of D's entries
    independent of the rank, and the zero action is no edit.

    At A = B = 0 the product has no gradient, and who starts there has to find the way out by noise
    alone. With `origin="lora"` an action's A is an offset from a fixed random A₀, as LoRA starts
    (Hu et al. 2022, sect. 4.1): D = clip((A₀ + A)·B/√r, −1, 1). The zero action is no edit there
    too, and D is linear in B around it. With `rank="full"` both origins are the same.

    Attributes:
        shapes: (out, in) of every site.
        rank: r, or `"full"`.
        origin: What A is added to: `"zero"`, or `"lora"` for A₀, normal with standard deviation .5,
            cut at ±1, the same in every process and on every device.
    """

    shapes: tuple[tuple[int, int], ...]
    rank: Rank = 4
    origin: Origin = "zero"

    def __post_init__(self) -> None:
        if self.origin not in ("zero", "lora"):
            raise ValueError(f'origin must be "zero" or "lora", got {self.origin!r}')
        if self.rank == "full":
            return
        largest = min(min(shape) for shape in self.shapes)
        if (
            isinstance(self.rank, bool)
            or not isinstance(self.rank, int)
            or not 1 <= self.rank <= largest
        ):
            raise ValueError(
                f'rank must be "full" or an integer from 1 to {largest} (the smallest side of the '
                f"sites), got {self.rank!r}"
            )

    @property
    def size(self) -> int:
        """Length of the flat action."""
        return sum(self._sizes())

    def unpack(self, actions: Tensor) -> list[Update]:
        """Flat actions (..., size) -> one update per site, with the actions' leading dimensions."""
        if self._starts_off_zero:
            actions = actions + self._origin_like(actions)
        lead = actions.shape[:-1]
        updates: list[Update] = []
        for (rows, columns), part in zip(
            self.shapes, actions.split(self._sizes(), dim=-1), strict=True
        ):
            if self.rank == "full":
                updates.append(DenseUpdate(part.reshape(*lead, rows, columns), bound=1.0))
                continue
            a, b = part.split([rows * self.rank, self.rank * columns], dim=-1)
            updates.append(
                LowRankFactors(
                    a.reshape(*lead, rows, self.rank),
                    b.reshape(*lead, self.rank, columns),
                    scale=1 / math.sqrt(self.rank),
                    bound=1.0,
                )
            )
        return updates

    def pack(self, updates: Sequence[Update]) -> Tensor:
        """The inverse of `unpack`: one update per site -> flat actions (..., size), which may lie
        beyond ±1 where `origin` is `"lora"`.
        """
        parts: list[Tensor] = []
        for update in updates:
            parts += (
                [update.d.flatten(-2)]
                if isinstance(update, DenseUpdate)
                else [update.a.flatten(-2), update.b.flatten(-2)]
            )
        actions = torch.cat(parts, dim=-1)
        return actions - self._origin_like(actions) if self._starts_off_zero else actions

    @property
    def _starts_off_zero(self) -> bool:
        return self.origin == "lora" and self.rank != "full"

    def _origin_like(self, actions: Tensor) -> Tensor:
        """A₀ and zeros for B, (size,)."""
        assert self.rank != "full"
        return _lora_origin(self.shapes, self.rank).to(actions)

    def _sizes(self) -> list[int]:
        if self.rank == "full":
            return [rows * columns for rows, columns in self.shapes]
        return [self.rank * (rows + columns) for rows, columns in self.shapes]


@cache
def _lora_origin(shapes: tuple[tuple[int, int], ...], rank: int) -> Tensor:
    """A₀ and zeros for B of every site, flat, on CPU."""
    random = np.random.RandomState(_LORA_SEED)  # its streams are frozen for good
    parts: list[Tensor] = []
    for rows, columns in shapes:
        a = torch.from_numpy(random.standard_normal(rows * rank)).float() * _LORA_SPREAD
        parts += [a.clamp(-1, 1), torch.zeros(rank * columns)]
    return torch.cat(parts)
