"""What defines a stream of edits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from gymnasium.utils import seeding

from editgym.envs.lifelong.batch import Basis
from editgym.envs.lifelong.rehearsal import RehearsedBy
from editgym.envs.lifelong.reward import RewardWeights
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.task import KnowledgeTask, Stream, StreamSplit

Order = int | Literal["file"]
_AFTERWARDS = ("evaluate_formats", "format_edits")  # what is asked for when a stream is over


def drawn_seed(generator: np.random.Generator) -> int:
    """The seed of the stream that a reset draws with the environment's generator."""
    return int(generator.integers(2**63 - 1))


def first_stream_seed(seed: int) -> int:
    """The seed of the stream that the environment's `reset(seed=seed)` begins."""
    return drawn_seed(seeding.np_random(seed)[0])


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
        rehearse_by: How these are chosen: drawn, or those whose answers the model has lost most.
        unique_subjects: Whether of several requests about one subject a stream takes one.
        order: 0 for the order in which requests are drawn, another number for another order of the
            same ones, "file" for the first ones of the file, in its order.
        stream: The seed of the environment's reset whose stream every episode of a closed split
            has; None draws one.
    """

    edits_per_step: int = 10
    horizon: int = 20
    split: StreamSplit = "policy"
    basis: Basis = "ultraedit"
    reward: RewardWeights = field(default_factory=RewardWeights)
    rehearse: int = 0
    unique_subjects: bool = True
    order: Order = 0
    rehearse_by: RehearsedBy = "draw"
    stream: int | None = None

    def __post_init__(self) -> None:
        if not self.unique_subjects and self.order not in (0, "file"):
            raise ValueError(
                'order must be 0 or "file" with unique_subjects=False, where a later request may'
                f" take back an earlier one, got {self.order!r}"
            )
        if self.stream is not None and self.order == "file":
            raise ValueError(
                f'stream must be None with order="file", which draws none, got {self.stream}'
            )

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

    def stream_seed(self, seed: int) -> int:
        """The seed of the stream that an episode has, where `seed` was drawn for it: that of the
        fixed stream, if the split is closed and one is fixed.
        """
        if self.stream is None or self.open:
            return seed
        return first_stream_seed(self.stream)

    def drawn(self, task: KnowledgeTask, seed: int) -> Stream:
        """The stream that a seed draws.

        Raises:
            ValueError: The split has too few requests.
        """
        rng = None if self.order == "file" else random.Random(f"stream {self.split} {seed}")
        stream = task.stream(
            self.split,
            self.horizon * self.edits_per_step,
            rng,
            unique_subjects=self.unique_subjects,
            edits_per_step=self.edits_per_step,
        )
        if not self.order or self.order == "file":
            return stream
        order = random.Random(f"order {self.order} of stream {self.split} {seed}")
        return stream.in_order(order, self.edits_per_step)

    def places(self, step: int, stream: Stream) -> tuple[Sequence[int], Sequence[int]]:
        """Where a step's new requests stand in the stream, and those that it may teach again: all
        that still hold. One that a later request overwrites, of the step or before it, does not.

        Args:
            step: The step's number, from 0.
            stream: The stream; after its end there is nothing.
        """
        start, count = step * self.edits_per_step, len(stream.requests)
        new = range(count)[start : start + self.edits_per_step]
        if not new or not self.rehearse:
            return new, ()
        return new, [at for at in range(start) if stream.overwritten_by(at, new.stop) is None]

    def identity(self, task: KnowledgeTask) -> list[Any]:
        """What a stream's batches depend on beside its seed, as plain values."""
        base, asked = task.decoder.base_hash, asdict(task.interview)
        usual = asdict(Interview())
        told = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asked.items()
            if name not in _AFTERWARDS and value != usual[name]
        }
        return [
            task.name,
            base,
            self.split,
            self.horizon,
            self.edits_per_step,
            self.rehearse,
            self.unique_subjects,
            self.order,
            *([] if self.rehearse_by == "draw" else [self.rehearse_by]),
            *([] if self.basis == "ultraedit" else [self.basis]),
            *([told] if told else []),
            *([] if self.stream is None else [{"stream": self.stream}]),
        ]
