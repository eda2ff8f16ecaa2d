"""Whether what is computed of a sample depends on the other samples of its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Relative; products of other shapes round otherwise. In double precision nothing comes near.
_ROUNDING = {torch.float64: 1e-7}
_OF_OTHERS = 1e-4


@torch.no_grad()
def is_by_sample(compute: Callable[[Tensor], Sequence[Tensor]], example: Tensor) -> bool:
    """Whether each sample's results are the same in other batches: without the last or the first
    one, and among copies of one sample.

    Statistics of the batch, what is handed on from sample to sample, and what is looked up at one
    place of the batch all show in one of these.

    Args:
        compute: Inputs (n, ...) -> tensors, (n, ...) each.
        example: At least two inputs.
    """
    count = len(example)
    order = torch.arange(count, device=example.device)
    whole = compute(example)
    others = [order[:-1], order[1:], 0 * order + count // 2]
    return all(
        _alike(own[rows], found)
        for rows in others
        for own, found in zip(whole, compute(example[rows]), strict=True)
    )


def _alike(own: Tensor, found: Tensor) -> bool:
    """Whether tensors are the same but for rounding."""
    if own.shape != found.shape:
        return False
    if not own.is_floating_point() or not own.numel():
        return torch.equal(own, found)
    scale = float(own.abs().max().clamp_min(1.0))
    rounding = _ROUNDING.get(own.dtype, _OF_OTHERS)
    return bool(((own - found).abs() <= rounding * scale).all())
