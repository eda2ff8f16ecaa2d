"""What defines a stream of edits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from editgym.envs.lifelong.batch import Basis
from editgym.envs.lifelong.reward import RewardWeights
from editgym.tasks.knowledge import KnowledgeTask, Stream, StreamSplit


class ClosedStreamError(RuntimeError):
    """A reward of a stream that agents are evaluated on was asked for."""


@dataclass(frozen=True)
class LifelongSettings:
    """What defines the process.

    Attributes:
        edits_per_step: Requests in a batch.
        horizon: Batches in an episode.
        split: Where requests come from; only `policy` streams have rewards.
        basis: Which update `directions` takes apart.
        reward: The weights of the reward's terms.
        rehearse: Earlier requests that every step teaches again.
    """

    edits_per_step: int = 10
    horizon: int = 20
    split: StreamSplit = "policy"
    basis: Basis = "ultraedit"
    reward: RewardWeights = field(default_factory=RewardWeights)
    rehearse: int = 0

    @property
    def open(self) -> bool:
        """Whether streams have rewards."""
        return self.split == "policy"

    def check_open(self) -> None:
        """Refuse to reward a closed stream.

        Raises:
            ClosedStreamError: Streams have no rewards.
        """
        if not self.open:
            raise ClosedStreamError(
                f"split {self.split!r} is for evaluation and has no rewards: learn on"
                ' split="policy"'
            )

    def drawn(self, task: KnowledgeTask, seed: int) -> Stream:
        """The stream that a seed draws.

        Raises:
            ValueError: The split has too few requests.
        """
        rng = random.Random(f"stream {self.split} {seed}")
        return task.stream(self.split, self.horizon * self.edits_per_step, rng)

    def places(self, seed: int, step: int, count: int) -> tuple[Sequence[int], Sequence[int]]:
        """Where a step's new requests stand in the stream, and those that it teaches again.

        The latter are drawn anew for every step, without replacement, from all requests before it;
        a step with fewer than `rehearse` before it takes all of these. What is drawn depends on
        nothing but the seed and the step.

        Args:
            seed: The stream's seed.
            step: The step's number, from 0.
            count: Requests in the stream; after its end there is nothing.
        """
        start = step * self.edits_per_step
        new, earlier = range(count)[start : start + self.edits_per_step], range(start)
        if not new:
            return (), ()
        rng = random.Random(f"rehearsed requests {seed} {step}")
        return new, rng.sample(earlier, min(self.rehearse, len(earlier)))

    def identity(self, task: KnowledgeTask) -> list[Any]:
        """What a stream's batches depend on beside its seed, as plain values."""
        base = task.decoder.base_hash
        return [
            task.name,
            base,
            self.split,
            self.horizon,
            self.edits_per_step,
            self.rehearse,
        ]
