"""What remains of texts that were read up to a token of each: a search that changes nothing before
that token reads the beginnings once.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from editgym.weights.language.kv_cache import beginnings, cache_argument, copied, taken
from editgym.weights.language.layers import Prefix, below_head
from editgym.weights.language.tokens import TokenBatch

if TYPE_CHECKING:
    from transformers import DynamicCache


@dataclass(frozen=True)
class Rest:
    """The rests of texts, and what a forward pass over them goes on from.

    Attributes:
        texts: The rests, without their last token, from which nothing is predicted; padded on the
            right.
        starts: (n,), how many tokens of each text were read.
        seen: (n, most of these), 1 at them and 0 at padding.
        cache: What attention has seen of them.
        prefix: The rests' `EditableDecoder.prefix`.
    """

    texts: TokenBatch
    starts: Tensor
    seen: Tensor
    cache: DynamicCache
    prefix: Prefix | None

    @classmethod
    def of(
        cls, texts: TokenBatch, starts: Tensor, prefix: Prefix | None, cache: DynamicCache
    ) -> Rest:
        """The rests of whole texts.

        Args:
            texts: Whole ones, none of which is asked about before its start.
            starts: (n,), the first token of each rest.
            prefix: Prefix of the whole texts.
            cache: What attention has seen of as many first tokens as the last start has before it.
        """
        lengths = torch.tensor(texts.lengths, device=starts.device)
        longest = int((lengths - 1 - starts).max())  # nothing is predicted from a text's last token
        last = texts.ids.shape[1] - 1
        places = (starts[:, None] + torch.arange(longest, device=starts.device)).clamp(max=last)
        own = None
        if prefix is not None:
            at = places.to(prefix.activations.device)
            rows = torch.arange(len(texts), device=at.device)[:, None]
            own = Prefix(prefix.activations[rows, at], prefix.layer)
        rests = replace(
            texts,
            ids=texts.ids.gather(1, places),
            positions=texts.positions - starts[texts.rows],
        )
        most = int(starts.max())
        return cls(rests, starts, beginnings(starts.tolist(), most, starts.device), cache, own)

    def take(self, rows: Sequence[int]) -> Rest:
        """The rests of some of the texts, by their places."""
        texts, index = self.texts.take(rows), torch.tensor(rows, device=self.starts.device)
        prefix = None if self.prefix is None else self.prefix.take(rows, texts.ids.shape[1])
        return Rest(texts, self.starts[index], self.seen[index], taken(self.cache, rows), prefix)

    def told(self, module: nn.Module) -> dict[str, Any]:
        """What a model, or what of it lies below its head, is told beside the rests' tokens, for
        one pass, which adds to the cache what nobody else sees.
        """
        steps = torch.arange(self.texts.ids.shape[1], device=self.starts.device)
        mask = torch.cat([self.seen, self.seen.new_ones(self.texts.ids.shape)], dim=1)
        return {
            "attention_mask": mask,
            "position_ids": self.starts[:, None] + steps,
            cache_argument(module): copied(self.cache),
        }


def begun_of(
    prefix: Prefix | Rest | None, rows: Sequence[int], length: int
) -> Prefix | Rest | None:
    """What a pass over some of the texts begins with, or goes on from.

    Args:
        prefix: What a pass over all of them begins with.
        rows: Places of some of them.
        length: Tokens of the longest of these.
    """
    if isinstance(prefix, Rest):
        return prefix.take(rows)
    return None if prefix is None else prefix.take(rows, length)


def reads_rests(model: Any) -> bool:
    """Whether a model is told where the tokens stand that it is given."""
    return {"attention_mask", "position_ids"} <= set(
        inspect.signature(below_head(model).forward).parameters
    )
