"""h_φ, the network that turns keys and output gradients into weight updates; MEND, MALMEN, RLEdit
and HiEdit share it.

Written from Mitchell et al. 2022 (MEND), Tan et al. 2024 (MALMEN) and Li et al. 2025 (RLEdit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from editgym.weights import LowRankFactors
from editgym.weights.closed_form import RunningStandardization, least_squares, ultraedit

Rule = Literal["mend", "malmen"]
_LARGEST_RANK = 1024  # MALMEN's at 8 billion parameters
_SHARE_OF_WIDTH = 4  # smaller sites get a smaller rank


class ShapeMismatchError(ValueError):
    """A saved hypernetwork belongs to sites of other shapes."""


class _Block(nn.Module):
    """x + scale_l · max(x A B + b, 0) + shift_l, which is the identity as long as B = 0.

    The gradient is passed on at 0 too, or B could never leave it. `relu` does not pass it on there,
    and `clamp` does in some versions of torch only.
    """

    def __init__(self, width: int, rank: int, sites: int, generator: torch.Generator) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(width, rank, generator=generator) / math.sqrt(width))
        self.b = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(sites, width))
        self.shift = nn.Parameter(torch.zeros(sites, width))

    def forward(self, x: Tensor, site: int) -> Tensor:
        """(n, width) -> (n, width)."""
        hidden: Tensor = x @ self.a @ self.b + self.bias
        return x + self.scale[site] * torch.where(hidden >= 0, hidden, 0.0) + self.shift[site]


class Hypernetwork(nn.Module):
    """One update per site from the keys and output gradients of a batch of requests.

    k̂ and ĝ are standardised by statistics that run over everything seen; [k̃, g̃] = h_φ([k̂, ĝ]),
    one h_φ per shape of site, with a scale and a shift per site. Then, with η and λ learned per
    site,

    - `malmen` (Tan et al. 2024, eq. 5; RLEdit's too): v_i = −η (k_i·k̃_i) g̃_i, ΔW = V Kᵀ(K Kᵀ +
      λI)⁻¹, as n × n;
    - `mend` (Mitchell et al. 2022, eq. 3): ΔW = −η Σ_i g̃_i k̃_iᵀ.

    Untrained, h_φ is the identity. η is in units in which the untrained network's update of the
    first batch it sees is as long as UltraEdit's with that step size, so one number means the same
    for both rules and all models.

    Args:
        shapes: (out, in) of every site.
        rule: `malmen` or `mend`.
        step_size: First η, in those units.
        ridge: First λ; `malmen` alone uses it.
        log_step: Whether η is learned by its logarithm and so stays positive. The released RLEdit
            learns η itself.
        blocks: How many blocks h_φ has.
        rank: Rank of a block's A·B; None takes a quarter of its width, at most 1,024.
        seed: Seed of the first A.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        *,
        rule: Rule = "malmen",
        step_size: float = 1e-3,
        ridge: float = 1.0,
        log_step: bool = True,
        blocks: int = 4,
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.rule = rule
        self.log_step = log_step
        self.first_step = step_size
        generator = torch.Generator().manual_seed(seed)
        members: dict[tuple[int, int], int] = {}
        self._place = []  # of every site: its shape's network, and its row there
        for shape in self.shapes:
            self._place.append((_key(shape), members.get(shape, 0)))
            members[shape] = members.get(shape, 0) + 1
        self.networks = nn.ModuleDict()
        for shape, count in members.items():
            width = sum(shape)
            own_rank = (
                min(_LARGEST_RANK, max(1, width // _SHARE_OF_WIDTH))
                if rank is None
                else min(rank, width)
            )
            self.networks[_key(shape)] = nn.ModuleList(
                _Block(width, own_rank, count, generator) for _ in range(blocks)
            )
        first = math.log(step_size) if log_step else step_size
        self.steps = nn.Parameter(torch.full((len(self.shapes),), first))
        self.log_ridges = nn.Parameter(torch.full((len(self.shapes),), math.log(ridge)))
        self.register_buffer("units", torch.zeros(len(self.shapes)))  # 0 until they are settled
        self.keys = [RunningStandardization(columns) for _, columns in self.shapes]
        self.gradients = [RunningStandardization(rows) for rows, _ in self.shapes]

    def observe(self, keys: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Take a batch into the running statistics; the first one also settles the units of η.

        A first batch of one token has no spread to be standardised by, and so no update; the next
        settles them then.

        Args:
            keys: Per site (n, in).
            gradients: Per site (n, out).
        """
        for own, rows in zip((*self.keys, *self.gradients), (*keys, *gradients), strict=True):
            own.update(rows)
        if not bool(self.units.all()):
            self._settle_units(keys, gradients)

    def forward(self, keys: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[LowRankFactors]:
        """Updates, one per site, (out, n) · (n, in), differentiable in the network's parameters.

        Args:
            keys: Per site (n, in).
            gradients: Per site (n, out).
        """
        steps = self.steps.exp() if self.log_step else self.steps
        updates = []
        for site, (k, g) in enumerate(zip(keys, gradients, strict=True)):
            update = self._update(site, k, g)
            updates.append(LowRankFactors(update.a * (steps[site] * self.units[site]), update.b))
        return updates

    def features(self, keys: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """[k̂, ĝ] per site, (n, in + out)."""
        return [
            self._standardized(site, k, g)
            for site, (k, g) in enumerate(zip(keys, gradients, strict=True))
        ]

    def _apply(self, *args: Any, **kwargs: Any) -> Hypernetwork:
        # Not `to`: a module around this one moves its parts without asking them.
        super()._apply(*args, **kwargs)
        for own in (*self.keys, *self.gradients):
            _move(own, self.steps.device)
        return self

    def statistics(self) -> dict[str, Any]:
        """The running statistics, the units of η, and the rule that these are for."""
        return {
            "keys": [own.state_dict() for own in self.keys],
            "gradients": [own.state_dict() for own in self.gradients],
            "units": self.units.clone(),
            "rule": self.rule,
        }

    def load_statistics(self, state: dict[str, Any]) -> None:
        """Statistics that `statistics` gave."""
        for own, saved in zip(
            (*self.keys, *self.gradients), (*state["keys"], *state["gradients"]), strict=True
        ):
            own.load_state_dict(saved)
            _move(own, self.steps.device)
        self.units = state["units"].clone().to(self.steps.device)

    # --- inside -----------------------------------------------------------------------------------

    def _standardized(self, site: int, keys: Tensor, gradients: Tensor) -> Tensor:
        return torch.cat([self.keys[site](keys), self.gradients[site](gradients)], dim=1)

    def _update(self, site: int, keys: Tensor, gradients: Tensor) -> LowRankFactors:
        """The update at η = 1 in raw units."""
        name, row = self._place[site]
        x = self._standardized(site, keys, gradients)
        blocks: Any = self.networks[name]
        for block in blocks:
            x = block(x, row)
        new_keys, new_gradients = x.split([keys.shape[1], gradients.shape[1]], dim=1)
        if self.rule == "mend":
            return LowRankFactors(-new_gradients.mT, new_keys)
        strength = (keys * new_keys).sum(1, keepdim=True)
        return least_squares(-strength * new_gradients, keys, self.log_ridges[site].exp())

    @torch.no_grad()
    def _settle_units(self, keys: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        units = []
        for site, (k, g) in enumerate(zip(keys, gradients, strict=True)):
            wanted = _norm(ultraedit(k, self.keys[site](k), self.gradients[site](g), 1.0))
            raw = _norm(self._update(site, k, g))
            units.append(wanted / raw if raw > 0 else torch.zeros_like(raw))
        self.units = torch.where(self.units == 0, torch.stack(units), self.units)


def check_sites(
    wanted: Sequence[tuple[str, tuple[int, int]]], there: Sequence[tuple[str, tuple[int, int]]]
) -> None:
    """Refuse sites that a trained network was not made for: it knows them by their place.

    Args:
        wanted: Name and (out, in) of the sites it was trained on.
        there: The same of the sites it should edit; other names are those of another model.

    Raises:
        ShapeMismatchError: Number or shapes differ, or the order of the same names; the message
            names the first site that does.
    """
    if len(wanted) != len(there):
        raise ShapeMismatchError(
            f"sites: the policy was trained on {len(wanted)} ({[name for name, _ in wanted]}), "
            f"the environment has {len(there)} ({[name for name, _ in there]})"
        )
    for (name, shape), (other, its_shape) in zip(wanted, there, strict=True):
        if shape != its_shape:
            raise ShapeMismatchError(
                f"site {other}: it is {its_shape[0]} × {its_shape[1]} (out × in), the policy was "
                f"trained on {name} of {shape[0]} × {shape[1]}"
            )
    names, its_names = [name for name, _ in wanted], [name for name, _ in there]
    if names != its_names and set(names) == set(its_names):
        raise ShapeMismatchError(
            f"sites: the policy was trained on them in the order {names}, not {its_names}; give "
            "them to the environment in that order"
        )


def _move(own: RunningStandardization, device: torch.device) -> None:
    own.mean, own.squares = own.mean.to(device), own.squares.to(device)


def _key(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


def _norm(update: LowRankFactors) -> Tensor:
    """‖A·B‖ through Gram matrices."""
    return (update.a.mT @ update.a * (update.b @ update.b.mT)).sum().clamp(min=0).sqrt()
