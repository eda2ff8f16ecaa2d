"""The keys and values that attention has seen, of models of `transformers`."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import DynamicCache


def cache_argument(module: nn.Module) -> str:
    """What a model calls its cache, as an argument and in what it gives out; the name changed in
    `transformers` 5.
    """
    own = inspect.signature(module.forward).parameters
    return "cache" if "cache" in own else "past_key_values"


def empty_cache(model: Any) -> DynamicCache:
    """A cache that has seen nothing, for a causal LM or its base model."""
    from transformers import DynamicCache  # who has such a model has waited for it

    return DynamicCache(config=model.config.get_text_config(decoder=True))


def copied(cache: DynamicCache) -> DynamicCache:
    """The same cache for somebody else to go on with; what it has seen is not copied."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    return own


def taken(cache: DynamicCache, rows: Sequence[int]) -> DynamicCache:
    """What a cache has seen of some texts, or several times of one; it stays as it is."""
    own = copied(cache)
    own.batch_select_indices(torch.tensor(rows))
    return own


def beginnings(lengths: Sequence[int], total: int, device: torch.device) -> Tensor:
    """1 at so many first tokens of every text, 0 at the rest, (n, total)."""
    ends = torch.tensor(lengths, device=device)[:, None]
    return (torch.arange(total, device=device) < ends).long()


def shortest_window(model: Any, layers: Iterable[object]) -> float:
    """How many tokens attention looks back to in the layers that look back least; infinity where
    all look back to the first. Padding between tokens counts.

    Args:
        model: A causal LM.
        layers: The layers of its cache.
    """
    windows = [getattr(layer, "sliding_window", None) for layer in layers]
    config = model.config.get_text_config(decoder=True)
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo's, of which no cache knows
        windows.append(config.window_size)
    return min((window for window in windows if window), default=math.inf)


def seem_to_have_seen(cache: DynamicCache, tokens: int, below: int, texts: int = 1) -> None:
    """Let the layers below a layer, which are skipped, look as if they had seen so many tokens: a
    model takes that number from its lowest layers, and nothing else.

    Args:
        cache: One of a pass that began at the layer.
        tokens: How many that pass has read.
        below: The layer's number.
        texts: Number of texts, where rows are taken later.
    """
    layer: Any = cache.layers[below]
    seen = layer.keys.new_zeros(texts, 1, tokens, 1)
    for number in range(below):
        cache.update(seen, seen, number)
