"""Which earlier requests a step teaches again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

from editgym.tasks.knowledge.stream import Stream
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder
from editgym.weights.language.tokens import by_length

RehearsedBy = Literal["draw", "loss"]
_TOKENS_AT_ONCE = 4_096  # padding counted


def drawn(earlier: Sequence[int], count: int, seed: int, step: int) -> list[int]:
    """`count` of the earlier requests, drawn anew for every step, without replacement: what is
    drawn depends on nothing but the seed, the step, and which earlier requests there are.
    """
    rng = random.Random(f"rehearsed requests {seed} {step}")
    return rng.sample(earlier, min(count, len(earlier)))


@torch.no_grad()
def most_lost(
    earlier: Sequence[int],
    count: int,
    stream: Stream,
    task: KnowledgeTask,
    decoder: EditableDecoder,
) -> list[int]:
    """The `count` earlier requests whose answers the model, as it is now, has lost most: those of
    the largest mean cross-entropy per token of the target and its ending, the largest first, the
    earliest of equal ones. One forward pass over all of them finds them.

    Args:
        earlier: Their places in the stream.
        count: How many to teach again.
        stream: The stream.
        task: Asks them.
        decoder: The model under edit.
    """
    if len(earlier) <= count:
        return list(earlier)
    texts = task.batch([(r.prompt, r.target) for r in (stream.requests[at] for at in earlier)])
    losses = torch.zeros(len(earlier))
    for rows in by_length(texts.lengths, _TOKENS_AT_ONCE):
        some = texts.take(rows)
        costs = F.cross_entropy(decoder.logits(some).float(), some.labels, reduction="none")
        losses[rows] = some.mean_costs(costs).cpu()
    # Of a model that has collapsed a loss may be no number: such an answer is lost altogether.
    worst = losses.nan_to_num(nan=float("inf")).sort(descending=True, stable=True).indices
    return [earlier[place] for place in worst[:count].tolist()]
