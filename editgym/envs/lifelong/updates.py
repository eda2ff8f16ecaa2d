"""From an action's numbers, or an agent's factors, to what is applied at a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editgym.weights import DenseUpdate, EditSite, LowRankFactors, Operator, SiteEdit, Update

DIRECTIONS = 4  # q


def stretch(directions: Sequence[LowRankFactors], coefficients: Tensor) -> list[LowRankFactors]:
    """Updates ΔW_l = Σ_j c_lj σ_j u_j v_jᵀ, with the coefficients' leading dimensions.

    Args:
        directions: Σ_j σ_j u_j v_jᵀ of every site, one column and row per j.
        coefficients: (..., sites, q = 4). The last one is for all directions from the q-th on, so
            that equal ones scale the whole update.
    """
    updates = []
    for index, direction in enumerate(directions):
        own = torch.arange(direction.a.shape[1], device=coefficients.device).clamp(
            max=DIRECTIONS - 1
        )
        factor = coefficients[..., index, :][..., own].unsqueeze(-2)  # (..., 1, n)
        b = direction.b.expand(*coefficients.shape[:-2], *direction.b.shape)
        updates.append(LowRankFactors(direction.a * factor, b))
    return updates


def site_edits(
    sites: Sequence[EditSite], operator: Operator, updates: Sequence[Update]
) -> list[SiteEdit]:
    """One edit per site, of copies: it shares no memory with an action or a graph.

    Raises:
        ValueError: There is not one update per site.
    """
    if len(updates) != len(sites):
        raise ValueError(f"updates: {len(sites)} are needed, one per site, got {len(updates)}")
    return [
        SiteEdit(site.name, operator, _copied(update))
        for site, update in zip(sites, updates, strict=True)
    ]


def _copied(update: Update) -> Update:
    if isinstance(update, DenseUpdate):
        return DenseUpdate(update.d.detach().clone(), update.bound)
    a, b = update.a.detach().clone(), update.b.detach().clone()
    return LowRankFactors(a, b, update.scale, update.bound)
