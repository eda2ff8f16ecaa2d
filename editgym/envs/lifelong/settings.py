"""What defines a stream of edits."""

from __future__ import annotations

import random
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
    """

    edits_per_step: int = 10
    horizon: int = 20
    split: StreamSplit = "policy"
    basis: Basis = "ultraedit"
    reward: RewardWeights = field(default_factory=RewardWeights)

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

    def identity(self, task: KnowledgeTask) -> list[Any]:
        """What a stream's batches depend on beside its seed, as plain values."""
        base = task.decoder.base_hash
        return [task.name, base, self.split, self.horizon, self.edits_per_step]
