"""Random numbers for K candidates at once, each from its own seed, equal on every device.

A counter-based generator: number i of a stream is a hash of (key, counter, i), so K candidates need
no loop over K generators, and candidate i of a vector environment draws what a single environment
with its key would draw. The hash is SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_STREAMS = 64


def indices(keys: Tensor, counter: int | Tensor, stream: int, count: int, high: Tensor) -> Tensor:
    """Uniform draws with replacement from 0 … high − 1, per candidate.

    Args:
        keys: (K,) int64, one per candidate.
        counter: What distinguishes one draw from the next, e.g. the number of the step; one for all
            candidates, or (K,) int64.
        stream: What distinguishes draws of one counter from each other, 0 … 63.
        count: How many.
        high: (K,) int64, exclusive upper bounds, at most 2³¹.

    Returns:
        (K, count) int64.
    """
    base = _mix(keys ^ _mix(torch.zeros_like(keys) + counter * _STREAMS + stream))
    half = (count + 1) // 2
    offsets = torch.arange(1, half + 1, device=keys.device) * _GOLDEN
    bits = _mix(base.unsqueeze(1) + offsets)  # (K, half): 64 random bits make two draws
    halves = torch.cat([bits & 0xFFFFFFFF, _shift_right(bits, 32)], dim=1)[:, :count]
    return (halves * high.unsqueeze(1)) >> 32


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 repeats the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
