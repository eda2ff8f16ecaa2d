"""Batches of texts as tokens, with the places where their answers are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Texts and which of their tokens are answers.

    Attributes:
        ids: (n, length), padded on the right, which a causal model does not see.
        rows: (m,), the text of every answer token.
        positions: (m,), where that token is predicted: one before it.
        labels: (m,), the token.
        weights: (m,), what the token counts in losses and gradients; None where all count alike.
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor
    labels: Tensor
    weights: Tensor | None = None

    @classmethod
    def of(
        cls,
        texts: Sequence[tuple[Sequence[int], Sequence[int]]],
        device: torch.device | str = "cpu",
        weights: Sequence[Sequence[float]] | None = None,
    ) -> TokenBatch:
        """A batch of (prompt tokens, answer tokens), neither empty.

        Args:
            texts: Prompts and answers.
            device: Where the batch lives.
            weights: What every answer token counts in losses and gradients, some of each text more
                than 0; None for all alike.

        Raises:
            ValueError: A prompt or an answer is empty, or there is no text.
        """
        if not texts or any(not prompt or not answer for prompt, answer in texts):
            raise ValueError(
                "texts must be at least one pair of prompt and answer tokens, none of them empty"
            )
        longest = max(len(prompt) + len(answer) for prompt, answer in texts)
        ids = torch.zeros(len(texts), longest, dtype=torch.long)
        rows: list[int] = []
        positions: list[int] = []
        labels: list[int] = []
        for row, (prompt, answer) in enumerate(texts):
            ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            rows += [row] * len(answer)
            positions += range(len(prompt) - 1, len(prompt) - 1 + len(answer))
            labels += answer
        flat = None if weights is None else [weight for own in weights for weight in own]
        return cls(
            ids.to(device),
            torch.tensor(rows, device=device),
            torch.tensor(positions, device=device),
            torch.tensor(labels, device=device),
            None if flat is None else torch.tensor(flat, device=device),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def opening(self) -> int:
        """How many tokens all of several texts begin with, before the first one that is predicted
        from: what stands around prompts is often the same.
        """
        if len(self) < 2:
            return 0
        alike = (self.ids == self.ids[:1]).all(0).long().cumprod(0).sum()
        return int(torch.minimum(alike, self.positions.min()))

    def after(self, opening: int) -> TokenBatch:
        """The texts without so many of their first tokens, from which none is predicted."""
        return replace(self, ids=self.ids[:, opening:], positions=self.positions - opening)

    @property
    def token_weights(self) -> Tensor:
        """What every answer token counts, (m,) float32."""
        return (
            torch.ones(len(self.labels), device=self.labels.device)
            if self.weights is None
            else self.weights
        )

    def means(self, values: Tensor, kept: Tensor | None = None) -> Tensor:
        """Means over every text's answer tokens: (..., m) -> (..., n).

        Args:
            values: (..., m).
            kept: Which of the tokens count, (m,) bool, at least one of every text; None for all of
                them.
        """
        rows = self.rows
        if kept is not None:
            values, rows = values[..., kept], rows[kept]
        total = values.new_zeros(*values.shape[:-1], len(self)).index_add(-1, rows, values)
        return total / torch.bincount(rows, minlength=len(self)).to(values)

    def mean_costs(self, costs: Tensor) -> Tensor:
        """Means over every text's answer tokens, each with its weight: (..., m) -> (..., n)."""
        if self.weights is None:
            return self.means(costs)
        shape = (*costs.shape[:-1], len(self))
        total = costs.new_zeros(shape).index_add(-1, self.rows, costs * self.weights)
        count = self.weights.new_zeros(len(self)).index_add(-1, self.rows, self.weights)
        return total / count.to(costs)

    def content(self, ending: Sequence[int]) -> Tensor:
        """Which answer tokens say something, (m,) bool: all but those of an ending, unless there
        are no others.
        """
        content = ~torch.isin(self.labels, torch.tensor(list(ending), device=self.labels.device))
        empty = torch.bincount(self.rows[content], minlength=len(self)) == 0
        return content | empty[self.rows]

    @property
    def starts(self) -> Tensor:
        """Where the first answer token of every text is predicted, (n,)."""
        first = self.positions.new_zeros(len(self))
        return first.scatter_reduce_(0, self.rows, self.positions, "amin", include_self=False)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every text, prompt and answer together."""
        last = self.positions.new_zeros(len(self)).scatter_reduce_(
            0, self.rows, self.positions, "amax"
        )
        return [int(position) + 2 for position in last.tolist()]

    def tokens(self, texts: Sequence[int]) -> Tensor:
        """Places of some texts' answer tokens among all, (k,), one text after the other."""
        place = self.rows.new_full((len(self),), -1)
        chosen = torch.tensor(texts, dtype=torch.long, device=place.device)
        place[chosen] = torch.arange(len(texts), device=place.device)
        own = place[self.rows]
        found = (own >= 0).nonzero().flatten()
        return found[own[found].argsort(stable=True)]

    def take(self, texts: Sequence[int]) -> TokenBatch:
        """Some of the texts, each at most once, padded as far as the longest of them."""
        tokens = self.tokens(texts)
        own = torch.tensor(texts, dtype=torch.long, device=self.ids.device)
        place = self.rows.new_zeros(len(self))
        place[own] = torch.arange(len(texts), device=place.device)
        positions = self.positions[tokens]
        return TokenBatch(
            self.ids[own, : int(positions.max()) + 2],
            place[self.rows[tokens]],
            positions,
            self.labels[tokens],
            None if self.weights is None else self.weights[tokens],
        )

    def all_of(self, values: Tensor) -> Tensor:
        """Whether a value holds at every answer token of a text: (..., m) -> (..., n), bool."""
        wrong = values.new_zeros(*values.shape[:-1], len(self), dtype=torch.long)
        return wrong.index_add(-1, self.rows, (~values).long()) == 0

    @staticmethod
    def join(batches: Sequence[TokenBatch]) -> TokenBatch:
        """One batch of the texts of several."""
        longest = max(batch.ids.shape[1] for batch in batches)
        starts = [0]
        for batch in batches:
            starts.append(starts[-1] + len(batch))
        weighted = any(batch.weights is not None for batch in batches)
        return TokenBatch(
            torch.cat([F.pad(b.ids, (0, longest - b.ids.shape[1])) for b in batches]),
            torch.cat([b.rows + start for b, start in zip(batches, starts, strict=False)]),
            torch.cat([b.positions for b in batches]),
            torch.cat([b.labels for b in batches]),
            torch.cat([b.token_weights for b in batches]) if weighted else None,
        )


def by_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Which texts go through a model together: those of about one length, so that little of a batch
    is padding. Where all texts fit into one batch they are one, in their order.

    Args:
        lengths: Tokens of every text.
        most: Tokens of a batch, padding counted; a longer text is a batch of its own.

    Returns:
        Places of the texts of every batch.
    """
    if max(lengths, default=0) * len(lengths) <= most:
        return [list(range(len(lengths)))] if lengths else []
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or (len(groups[-1]) + 1) * lengths[index] > most:
            groups.append([])
        groups[-1].append(index)
    return groups


def beginning_alike(texts: TokenBatch, opening: int, answer: int) -> TokenBatch:
    """Two texts of different lengths that begin alike.

    Args:
        texts: What they are made of: both begin as the first of these, repeated where it is short,
            and go on with a few tokens of the first, and of the last.
        opening: How many tokens they have in common.
        answer: How many tokens follow in the longer one; in the other one less.
    """
    first, last = texts.ids[[0, -1], :opening].tolist()
    begun = (first * opening)[:opening]
    return TokenBatch.of([(begun, first[:answer]), (begun, last[: answer - 1])], texts.ids.device)
