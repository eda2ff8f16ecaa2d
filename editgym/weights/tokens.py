"""Batches of texts as tokens, with the places where their answers are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        texts: Sequence[tuple[Sequence[int], Sequence[int]]],
        device: torch.device | str = "cpu",
    ) -> TokenBatch:
        """A batch of (prompt tokens, answer tokens), neither empty.

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
        return cls(
            ids.to(device),
            *(torch.tensor(part, device=device) for part in (rows, positions, labels)),
        )

    def __len__(self) -> int:
        return len(self.ids)

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

    def content(self, end_id: int) -> Tensor:
        """Which answer tokens say something, (m,) bool: all but the end token, unless it is the
        only one.
        """
        content = self.labels != end_id
        empty = torch.bincount(self.rows[content], minlength=len(self)) == 0
        return content | empty[self.rows]

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
        return TokenBatch(
            torch.cat([F.pad(b.ids, (0, longest - b.ids.shape[1])) for b in batches]),
            torch.cat([b.rows + start for b, start in zip(batches, starts, strict=False)]),
            torch.cat([b.positions for b in batches]),
            torch.cat([b.labels for b in batches]),
        )
