"""The reward of a step with gradients to the step's factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from editgym.envs.lifelong.reward import Costs, LookBack, floored, squared_norms
from editgym.weights import EditableDecoder, LowRankFactors


def differentiable_reward(
    look_back: LookBack, decoder: EditableDecoder, updates: Sequence[LowRankFactors]
) -> tuple[Tensor, Costs]:
    """The reward of one update per site, none of which is applied, and what it is made of.

    The forward and backward passes are made by micro-batches right here, so memory does not grow
    with `back_depth`; `reward.backward()` only hands the finished gradients on to the factors.

    Args:
        look_back: Has the step's batch as its newest.
        decoder: The model before the step.
        updates: One per site.

    Returns:
        A scalar with gradients to the updates' factors, and the costs without any.

    Raises:
        ValueError: An update is clipped.
    """
    leaves = [
        LowRankFactors(
            u.a.detach().clone().requires_grad_(),
            u.b.detach().clone().requires_grad_(),
            u.scale,
            u.bound,
        )
        for u in updates
    ]
    costs = look_back.costs(decoder, look_back.pieces(decoder), leaves, backward=True)
    with torch.enable_grad():
        penalty = look_back.weights.norm_weight * squared_norms(leaves).sum()
        penalty.backward()
    gradients = [
        -part.grad for leaf in leaves for part in (leaf.a, leaf.b) if part.grad is not None
    ]
    value = floored(-(costs.total + penalty.detach()))
    factors = [part for u in updates for part in (u.a, u.b)]
    return _WithGradients.apply(value, gradients, *factors), costs


class _WithGradients(torch.autograd.Function):
    """A scalar whose gradients by `tensors` were computed before."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return None, None, *(upstream * gradient for gradient in ctx.gradients)
