"""Log-probabilities over a whole vocabulary, and what lies between two of them, in little memory.

A vocabulary of 50,000 makes a gigabyte of the answers that are read at once, and every number that
is written down beside it another. Rows are independent, so a part of them at a time gives the same
bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_NUMBERS = 2**24  # of a part: 64 MiB in float32


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities (m, vocabulary) in float32, which take the place of float32 logits.

    Args:
        logits: (..., vocabulary), without a graph; whoever calls has no other use for them.
    """
    whole = logits.float().contiguous()
    for part in whole.view(-1, whole.shape[-1]).split(_rows(whole)):
        part.copy_(part.log_softmax(-1))
    return whole


def divergences(reference: Tensor, now: Tensor) -> Tensor:
    """KL(reference ‖ now) in nats, (m,), of log-probabilities (m, vocabulary)."""
    size = _rows(reference)
    return torch.cat(
        [
            (before.exp() * (before - after)).sum(-1)
            for before, after in zip(reference.split(size), now.split(size), strict=True)
        ]
    )


def _rows(logits: Tensor) -> int:
    return max(1, _NUMBERS // logits.shape[-1])
