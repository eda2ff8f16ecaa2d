"""The reward of LifelongLLMEdit: the edits of the last batches, on rephrases, and what must not
have changed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from editgym.envs.lifelong.terms import Term, agreement, grouped, joined
from editgym.tasks.knowledge import KnowledgeTask, Stream
from editgym.weights import EditableDecoder, Entry, LowRankFactors, Shift, SiteEdit, TokenBatch
from editgym.weights.layers import Prefix

Reference = Literal["original", "previous"]
REWARD_FLOOR = -1e6  # far below what a model can cost that still computes numbers


@dataclass(frozen=True)
class RewardWeights:
    """r = −[ Σ_{j=0..back_depth} decay^j (CE(rephrases_{t−j}) + λ KL(p_ref ‖ p_now on
    locality_{t−j})) + η Σ ‖ΔW‖² ].

    RLEdit's (Li et al. 2025, eq. 5 and 6). CE and KL are means over answer tokens, then over a
    batch's texts. Where r is not finite, because the model has collapsed, it is `REWARD_FLOOR`.

    Attributes:
        back_depth: How many earlier batches are looked back to; 0 for the current one alone.
        decay: Weight of a batch one step further back.
        locality_weight: λ.
        norm_weight: η, on the step's own update.
        reference: p_ref: the unedited model, or the one before the step.
        micro_batch: Texts that go through the model at a time; of K candidates, K times as many.
    """

    back_depth: int = 10
    decay: float = 0.95
    locality_weight: float = 0.6
    norm_weight: float = 1e-4
    reference: Reference = "original"
    micro_batch: int = 512


@dataclass(frozen=True)
class Costs:
    """What a step costs, without the norm term.

    Attributes:
        total: Scalar, or (K,) for K candidates; never with a graph.
        generalization: Share of the newest rephrases answered exactly; 0 of K candidates.
        locality: Share of the newest locality answers that are the unedited model's; 0 where there
            are none, and of K candidates.
    """

    total: Tensor
    generalization: float
    locality: float


@dataclass(frozen=True)
class _Judged:
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


class _RewardedPrompts:
    """What a stream's rewards look at, drawn when the first reward is asked for."""

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
            local = [choice.choice(r.locality).prompt for r in batch if r.locality]
            drawn.append((rephrased, local))
        self._task.original_answers([prompt for _, local in drawn for prompt in local])
        return drawn


class LookBack:
    """The rewarded texts of the last batches, and what an update of the model costs on them.

    Args:
        task: The model whose answers are the reference.
        weights: Settings of the reward's terms.
    """

    def __init__(self, task: KnowledgeTask, weights: RewardWeights) -> None:
        self.task = task
        self.weights = weights
        self._judged: deque[_Judged] = deque(maxlen=weights.back_depth + 1)
        self.begin(Stream(()), 1, 0)

    def begin(self, stream: Stream, edits_per_step: int, seed: int) -> None:
        """Look back no further than to the beginning of a stream.

        Args:
            stream: The stream.
            edits_per_step: Requests in a batch.
            seed: Draws one rephrase and one locality prompt of every request: what the reward looks
                at.
        """
        self._stream, self._size = stream, edits_per_step
        self._prompts = _RewardedPrompts(self.task, stream, edits_per_step, seed)
        self._judged.clear()
        self._newest: int | None = None

    def push(self, decoder: EditableDecoder, step: int) -> None:
        """Look at a step's batch, once; activations below the sites and the reference are computed
        here. Of earlier batches the requests that it overwrites are looked at no more.
        """
        if step == self._newest:
            return
        self._newest = step
        count = (step + 1) * self._size
        for index, one in enumerate(self._judged):
            places = self._holding(one.places, count)
            if places != one.places:
                self._judged[index] = replace(
                    one, places=places, **self._rephrases(decoder, places)
                )
        places = self._holding(range(count - self._size, count), count)
        local = self._prompts.steps[step][1]
        locality = self.task.unchanged(local) if local else None
        self._judged.appendleft(
            _Judged(
                **self._rephrases(decoder, places),
                places=places,
                locality=locality,
                locality_prefix=None if locality is None else decoder.prefix(locality),
                reference=(
                    None
                    if locality is None or self.weights.reference == "previous"
                    else self.task.reference(locality)
                ),
            )
        )

    def _holding(self, places: Sequence[int], count: int) -> tuple[int, ...]:
        """The places, among these, of requests that none among the first `count` overwrites."""
        stream = self._stream
        inside = (place for place in places if place < len(stream.requests))
        return tuple(place for place in inside if stream.overwritten_by(place, count) is None)

    def _rephrases(self, decoder: EditableDecoder, places: Sequence[int]) -> dict[str, Any]:
        """The rewarded rephrases of requests, and what no edit changes about them."""
        drawn = [self._prompts.steps[place // self._size][0] for place in places]
        asked = [own[place % self._size] for own, place in zip(drawn, places, strict=True)]
        rephrases = self.task.batch(asked) if asked else None
        prefix = None if rephrases is None else decoder.prefix(rephrases)
        return {"rephrases": rephrases, "rephrases_prefix": prefix}

    def pieces(self, decoder: EditableDecoder) -> list[Term]:
        """The terms of the sum; call it before the step's update, which the `previous` model
        lacks.
        """
        pieces = []
        for age, one in enumerate(self._judged):
            weight = self.weights.decay**age
            if one.rephrases is not None:
                pieces.append(Term(one.rephrases, one.rephrases_prefix, weight, None, age == 0))
            if one.locality is not None and self.weights.locality_weight:
                reference = one.reference
                if reference is None:
                    with torch.no_grad():
                        reference = (
                            decoder.logits(one.locality, prefix=one.locality_prefix)
                            .float()
                            .log_softmax(-1)
                        )
                pieces.append(
                    Term(
                        one.locality,
                        one.locality_prefix,
                        weight * self.weights.locality_weight,
                        reference,
                        age == 0,
                    )
                )
        return pieces

    def costs(
        self,
        decoder: EditableDecoder,
        pieces: Sequence[Term],
        updates: Sequence[LowRankFactors] | None = None,
        backward: bool = False,
    ) -> Costs:
        """Forward, and with `backward` also backward to the updates' leaves, one micro-batch after
        the other.
        """
        total: Tensor = torch.zeros((), device=self.task.device)
        seen = {"generalization": 0.0, "locality": 0.0}
        with torch.set_grad_enabled(backward):
            for group in grouped(pieces, self.weights.micro_batch):
                texts = TokenBatch.join([piece.texts for piece in group])
                logits = decoder.logits(texts, updates, joined(group)).float()
                parts = logits.split([len(piece.texts.labels) for piece in group], dim=-2)
                cost = torch.stack(
                    [piece.cost(part) for piece, part in zip(group, parts, strict=True)]
                ).sum(0)
                if backward:
                    cost.backward()
                total = total + cost.detach()
                for piece, part in zip(group, parts, strict=True):
                    if piece.newest and part.ndim == 2:
                        kind = "generalization" if piece.reference is None else "locality"
                        seen[kind] += piece.share * agreement(piece.texts, part.detach())
        if not self.weights.locality_weight and not total.ndim:
            seen["locality"] = self._locality(decoder, updates)
        return Costs(total, **seen)

    @torch.no_grad()
    def _locality(
        self, decoder: EditableDecoder, updates: Sequence[LowRankFactors] | None
    ) -> float:
        """`Costs.locality` where no term of the sum looks at it."""
        newest = self._judged[0]
        if newest.locality is None:
            return 0.0
        return agreement(
            newest.locality, decoder.logits(newest.locality, updates, newest.locality_prefix)
        )


def floored(reward: Tensor) -> Tensor:
    """Rewards, with `REWARD_FLOOR` for those that are not finite."""
    return torch.where(torch.isfinite(reward), reward, REWARD_FLOOR)


def squared_norms(updates: Sequence[LowRankFactors]) -> Tensor:
    """‖A·B‖² per site, (sites,) or (sites, K), from Gram matrices of the factors: tr(AᵀA · BBᵀ)."""
    return torch.stack(
        [(u.a.mT @ u.a * (u.b @ u.b.mT)).sum((-2, -1)) * u.scale**2 for u in updates]
    )


def squared_norm(entry: Entry) -> float:
    """‖ΔW‖² of a shift; 0 of any other entry."""
    if not isinstance(entry, SiteEdit) or not isinstance(entry.operator, Shift):
        return 0.0
    if isinstance(entry.update, LowRankFactors) and entry.update.bound is None:
        return float(squared_norms([entry.update])[0]) * entry.operator.limit**2
    return float(entry.operator.delta(entry.update).square().sum())
