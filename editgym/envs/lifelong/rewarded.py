"""The texts that a stream's rewards look at: drawn once, and what no edit changes about them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from editgym.data.edit_request import EditRequest
from editgym.tasks.knowledge.task import KnowledgeTask, Stream
from editgym.weights import TokenBatch
from editgym.weights.language.layers import Prefix


@dataclass(frozen=True)
class Judged:
    """The rewarded texts of one batch, with what no edit changes about them.

    `rephrases` are those of the requests that still hold, None where none does; `places` say where
    these stand in the stream. `reference` is log-probabilities (m, vocabulary) of the unedited
    model.
    """

    rephrases: TokenBatch | None
    rephrases_prefix: Prefix | None
    locality: TokenBatch | None
    locality_prefix: Prefix | None
    reference: Tensor | None
    places: tuple[int, ...] = ()


class RewardedPrompts:
    """What a stream's rewards look at, drawn when the first reward is asked for.

    Args:
        task: Answers for the unedited model.
        stream: The stream.
        edits_per_step: Requests in a batch.
        seed: Draws one rephrase and one locality prompt of every request.
    """

    def __init__(self, task: KnowledgeTask, stream: Stream, edits_per_step: int, seed: int) -> None:
        self._task = task
        self._drawn_from = stream.requests, edits_per_step, seed

    @cached_property
    def steps(self) -> list[tuple[list[tuple[str, str]], list[str]]]:
        """Per step, a rephrase of each of its requests with its target, and locality prompts.

        For the whole stream at once, so that what the unedited model answers is decoded in few
        large batches.
        """
        requests, size, seed = self._drawn_from
        choice = random.Random(f"rewarded prompts {seed}")
        drawn = []
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            rephrased = [(choice.choice(r.rephrases or (r.prompt,)), r.target) for r in batch]
            drawn.append((rephrased, _local(batch, choice)))
        self._task.original_answers([prompt for _, local in drawn for prompt in local])
        return drawn

    def pool(self, batches: int) -> list[str]:
        """Locality prompts of the whole stream, as many as so many batches have: of requests that
        are drawn without replacement, always the same.
        """
        requests, size, seed = self._drawn_from
        choice = random.Random(f"pool of rewarded prompts {seed}")
        asked = [request for request in requests if request.locality]
        return _local(choice.sample(asked, min(batches * size, len(asked))), choice)


def _local(requests: Sequence[EditRequest], choice: random.Random) -> list[str]:
    return [choice.choice(r.locality).prompt for r in requests if r.locality]
