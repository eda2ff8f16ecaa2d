"""Attention as vmap takes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def attention_in_parts(device: torch.device) -> Iterator[None]:
    """Attention out of single operations where vmap would run its fused one for each candidate by
    itself: that of `nn.MultiheadAttention` and of `nn.TransformerEncoder`, and on CPU
    `scaled_dot_product_attention`.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
