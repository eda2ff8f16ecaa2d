"""The terms of a stream's reward, and which texts of them go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from editgym.weights import TokenBatch
from editgym.weights.language.layers import Prefix
from editgym.weights.language.tokens import by_length

_TOKENS_AT_ONCE = 2_048  # padding counted


@dataclass(frozen=True)
class Term:
    """One term of the sum, or a part of one: cross-entropy, or KL from `reference` where there is
    one. `share` is how much of the term's texts it has.
    """

    texts: TokenBatch
    prefix: Prefix | None
    weight: float
    reference: Tensor | None
    newest: bool
    share: float = 1.0

    def part(self, texts: Sequence[int]) -> Term:
        """The term of some of the texts: the terms of all parts add up to this one."""
        if list(texts) == list(range(len(self.texts))):
            return self
        taken, share = self.texts.take(texts), len(texts) / len(self.texts)
        return Term(
            taken,
            None if self.prefix is None else self.prefix.take(texts, taken.ids.shape[1]),
            self.weight * share,
            None if self.reference is None else self.reference[self.texts.tokens(texts)],
            self.newest,
            share,
        )

    def cost(self, logits: Tensor) -> Tensor:
        """Weighted mean cost, (...), of logits (..., m, vocabulary)."""
        if self.reference is None:
            labels = self.texts.labels.expand(logits.shape[:-1])
            tokens = F.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), reduction="none"
            ).view_as(labels)
            return self.weight * self.texts.mean_costs(tokens).mean(-1)
        now = logits.log_softmax(-1)
        tokens = (self.reference.exp() * (self.reference - now)).sum(-1)
        return self.weight * self.texts.means(tokens).mean(-1)


def agreement(texts: TokenBatch, logits: Tensor) -> float:
    """Share of texts whose answer is decoded as it stands."""
    return float(texts.all_of(logits.argmax(-1) == texts.labels).float().mean())


def grouped(terms: Sequence[Term], limit: int) -> list[list[Term]]:
    """What goes through the model together: whole terms in their order where all are short, else
    texts of about one length, so that little is padding.

    Args:
        terms: The terms of the sum.
        limit: The most texts of a group; a whole term is never cut for it.
    """
    lengths = [length for term in terms for length in term.texts.lengths]
    if max(lengths, default=0) * len(lengths) <= _TOKENS_AT_ONCE:
        return _in_order(terms, limit)
    texts = [(place, text) for place, one in enumerate(terms) for text in range(len(one.texts))]
    groups = []
    for group in by_length(lengths, _TOKENS_AT_ONCE):
        for start in range(0, len(group), limit):
            own: dict[int, list[int]] = {}
            for index in group[start : start + limit]:
                place, text = texts[index]
                own.setdefault(place, []).append(text)
            groups.append([terms[place].part(rows) for place, rows in own.items()])
    return groups


def _in_order(terms: Sequence[Term], limit: int) -> list[list[Term]]:
    """Terms in order, as many together as have at most `limit` texts, but at least one."""
    groups: list[list[Term]] = []
    count = limit + 1
    for term in terms:
        count += len(term.texts)
        if count > limit:
            groups.append([])
            count = len(term.texts)
        groups[-1].append(term)
    return groups


def joined(group: Sequence[Term]) -> Prefix | None:
    """The prefixes of several pieces."""
    prefixes = [piece.prefix for piece in group if piece.prefix is not None]
    return Prefix.join(prefixes) if prefixes else None
