"""Accuracy of a classifier, and how much of its weights an edit changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest logit is the label's: logits (n, classes), labels (n,); nan
    for n = 0.
    """
    return float((logits.argmax(-1) == labels).double().mean())


def weights_changed(
    changed: Iterable[tuple[Tensor, Tensor]], all_weights: Iterable[Tensor]
) -> tuple[float, float]:
    """How much of a network an edit changed; a tensor that has several names counts once.

    Args:
        changed: (before, after) of the floating-point tensors that may differ.
        all_weights: Every floating-point tensor of the network before the edit.

    Returns:
        The share of numbers that differ, and ‖after − before‖ / ‖before‖ over the whole network
        (Frobenius).
    """
    count, squared = 0, 0.0
    pairs = list(changed)
    for before, after in (pairs[place] for place in _first(before for before, _ in pairs)):
        count += int((before != after).sum())
        squared += float((after.double() - before.double()).square().sum())
    every = list(all_weights)
    weights = [every[place] for place in _first(every)]
    total = sum(float(weight.double().square().sum()) for weight in weights)
    return count / sum(weight.numel() for weight in weights), (
        (squared / total) ** 0.5 if total else 0.0
    )


def _first(tensors: Iterable[Tensor]) -> list[int]:
    """The places of floating-point tensors, of those that are one in memory the first alone."""
    found: dict[object, int] = {}
    for place, tensor in enumerate(tensors):
        if tensor.is_floating_point():
            memory = tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()
            found.setdefault(memory if tensor.numel() else place, place)
    return list(found.values())


def right_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Per sample, the probability of the right class and whether it is the prediction, in float32.

    Args:
        logits: (..., n, classes), of any floating-point type.
        labels: (..., n), broadcast against the logits.

    Returns:
        Probability (..., n), differentiable, and correctness (..., n) as 0.0 or 1.0.
    """
    logits, labels = logits.float(), labels.expand(logits.shape[:-1])
    own = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    correct = (logits.detach().argmax(-1) == labels).to(logits.dtype)
    return torch.exp(own - logits.logsumexp(-1)), correct
