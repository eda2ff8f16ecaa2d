"""How much memory passes take, and their graphs; and texts in parts that take little of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from editgym.weights.language.layers import Prefix
from editgym.weights.language.passes import EditedPasses
from editgym.weights.language.rest import Rest, begun_of
from editgym.weights.language.tokens import TokenBatch, by_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of the model's own bytes, so that an edit takes little beside what everybody needs who has it.
# Less where texts go on from what was read: parts of others read again what they begin with.
_SHARE = 0.15
_REST_SHARE = 0.075
_LEAST = 48 * 2**20  # bytes; where a model is small, passes over few tokens cost time for nothing
# What a graph keeps of a layer, in numbers that its linear maps take in and give out: the same
# again for norms, products and attention, in part.
_KEPT = 1.6
_TOKENS_AT_ONCE, _LOGITS_AT_ONCE = 8_192, 2**29
_LOGITS = 16  # bytes of a logit: itself, its logarithm, what either of them becomes on the way back


def tokens_at_once(model: PreTrainedModel) -> int:
    """How many tokens go through a model together, padding counted, where nothing is learned:
    8,192, or as many as have logits of 2 GiB in float32, if that is fewer.
    """
    vocabulary: int = model.config.get_text_config(decoder=True).vocab_size
    return min(_TOKENS_AT_ONCE, max(1, _LOGITS_AT_ONCE // vocabulary))


def bytes_of(passes: EditedPasses, prefix: Prefix | None) -> float:
    """What the graph of a pass keeps for a token, in bytes, about.

    Args:
        passes: Passes of the model.
        prefix: Where the pass begins.
    """
    widths = passes.layers.widths[0 if prefix is None else prefix.layer :]
    return float(_KEPT * passes.model.dtype.itemsize * sum(widths))


def parts_of(
    passes: EditedPasses, batch: TokenBatch, prefix: Prefix | Rest | None
) -> list[list[int]]:
    """Places of texts that go through the model there and back together, so that a graph takes at
    most a seventh of the model's memory, about; a text that takes more is a part of its own.

    Args:
        passes: Passes of the model.
        batch: The texts.
        prefix: Where a pass over them begins, or what it goes on from.
    """
    token = bytes_of(passes, prefix.prefix if isinstance(prefix, Rest) else prefix)
    answer = _LOGITS * passes.model.config.get_text_config(decoder=True).vocab_size
    opening = 0 if isinstance(prefix, Rest) else passes.shared(batch)
    answers = torch.bincount(batch.rows, minlength=len(batch)).tolist()
    costs = [
        int((length - opening) * token + count * answer)
        for length, count in zip(batch.lengths, answers, strict=True)
    ]
    share = _REST_SHARE if isinstance(prefix, Rest) else _SHARE
    limit = max(_LEAST, share * passes.layers.bytes) - opening * token
    return by_length(costs, int(limit))


def in_parts(
    passes: EditedPasses, batch: TokenBatch, prefix: Prefix | Rest | None
) -> Iterator[tuple[TokenBatch, Prefix | Rest | None, list[int]]]:
    """Texts in the parts that `parts_of` tells: some of the texts, their prefix and places."""
    parts = parts_of(passes, batch, prefix)
    for rows in parts:
        if len(parts) == 1:
            yield batch, prefix, rows
            return
        texts = batch.take(rows)
        yield texts, begun_of(prefix, rows, texts.ids.shape[1]), rows
