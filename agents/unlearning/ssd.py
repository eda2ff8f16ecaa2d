"""Selective synaptic dampening: shrink the weights that matter to the forgotten data and not to the
rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agents.unlearning.descent import Sets, cross_entropy, gradients, opened
from editgym.data.images import Labelled

# Values of α, and shares of λ (the smaller, the stronger), that are tried where no α is given.
TRIES = tuple(
    (alpha, share) for alpha in (100.0, 50.0, 25.0, 10.0, 5.0, 2.0, 1.0) for share in (1.0, 0.1)
)


def ssd(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """Where F_f > α·F_D: w ← w·min(λ·F_D / F_f, 1) (Foster, Schoepf and Brintrup 2024, arXiv
    2308.07707, eq. 6–7).

    F_D is taken over D_r. Over all data, as there, F_f / F_D cannot exceed about ten for one class
    of ten, and the paper's α = 10 would never fire. Where α is None, each of `TRIES` is shown to
    `sets.after_step`, the weakest first; the model is left with the last.
    """
    retained = importance(model, sets.retain, settings["batch_size"])
    forgotten = importance(model, sets.forget, settings["batch_size"])
    weights = {name: weight.detach().clone() for name, weight in opened(model).items()}
    for alpha, share in TRIES if settings["alpha"] is None else ((settings["alpha"], 1.0),):
        strength = share * settings["dampening"]
        with torch.no_grad():
            for name, weight in opened(model).items():
                factor = dampening(forgotten[name], retained[name], alpha, strength)
                weight.copy_(weights[name] * factor)
        sets.after_step(model)


def importance(model: nn.Module, data: Labelled, batch_size: int) -> dict[str, Tensor]:
    """F: the mean over batches of the squared gradient of the batch's cross-entropy, per open
    parameter.

    The batches are in the data's own order, so F has no randomness.
    """
    named = opened(model)
    squares = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    batches = torch.arange(len(data), device=data.labels.device).split(batch_size)
    for rows in batches:
        for name, gradient in gradients(cross_entropy(model, data[rows]), named).items():
            squares[name] += gradient.square() / len(batches)
    return squares


def dampening(forget: Tensor, retain: Tensor, alpha: float, strength: float) -> Tensor:
    """What each weight is multiplied by, in 0–1; 1 where F_f ≤ α·F_D, so also where both are 0."""
    factor = (strength * retain / forget).clamp(max=1.0)  # where F_f = 0, `where` does not take it
    return torch.where(forget > alpha * retain, factor, torch.ones_like(factor))
