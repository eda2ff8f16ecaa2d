"""The reward of LifelongLLMEdit: the edits of the last batches, on rephrases, and what must not
have changed.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from editgym.checks import require
from editgym.envs.lifelong.rewarded import Judged, RewardedPrompts
from editgym.envs.lifelong.terms import Term, agreement, grouped, joined
from editgym.tasks.knowledge.task import KnowledgeTask, Stream
from editgym.weights import EditableDecoder, Entry, LowRankFactors, Shift, SiteEdit, TokenBatch

Reference = Literal["original", "previous"]
LookedAt = Literal["recent", "uniform"]
REWARD_FLOOR = -1e6  # what a model that has collapsed gets, and no other one gets less


@dataclass(frozen=True)
class RewardWeights:
    """r = −[ Σ_{j=0..back_depth} decay^j (CE(rephrases_{t−j}) + λ KL(p_ref ‖ p_now on
    locality_{t−j})) + η Σ ‖ΔW‖² ].

    RLEdit's (Li et al. 2025, eq. 5 and 6). CE and KL are means over answer tokens, then over a
    batch's texts. Where r is not finite, because the model has collapsed, it is `REWARD_FLOOR`.

    `look_back="uniform"` sees the whole stream: r = −[ CE(rephrases_t) + (t/k) Σ_{j∈S}
    CE(rephrases_j) + (t + 1) λ KL(p_ref ‖ p_now on a pool) + η Σ ‖ΔW‖² ], S being k = min(t,
    back_depth) of the t earlier batches, drawn anew at every step. In the mean over draws this is
    the sum over all batches that were edited: an unbiased estimate of the damage to all of them.
    The pool has locality prompts of the whole stream, as many as back_depth + 1 batches have, and
    stays the same.

    Attributes:
        back_depth: How many earlier batches are looked back to; 0 for the current one alone.
        decay: Weight of a batch one step further back.
        locality_weight: λ.
        norm_weight: η, on the step's own update.
        reference: p_ref: the unedited model, or the one before the step.
        micro_batch: Texts that go through the model at a time; of K candidates, K times as many.
        look_back: `recent`, the last batches, or `uniform`, a draw of all earlier ones.

    Raises:
        ValueError: `look_back` is `uniform` and `back_depth` 0, which would see no earlier batch.
    """

    back_depth: int = 10
    decay: float = 0.95
    locality_weight: float = 0.6
    norm_weight: float = 1e-4
    reference: Reference = "original"
    micro_batch: int = 512
    look_back: LookedAt = "recent"

    def __post_init__(self) -> None:
        require(
            self.look_back != "uniform" or self.back_depth > 0,
            "back_depth",
            self.back_depth,
            'at least 1 with look_back="uniform", or no earlier batch is seen',
        )


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


class LookBack:
    """The rewarded texts of the last batches, and what an update of the model costs on them.

    Args:
        task: The model whose answers are the reference.
        weights: Settings of the reward's terms.
    """

    def __init__(self, task: KnowledgeTask, weights: RewardWeights) -> None:
        self.task = task
        self.weights = weights
        self._judged: deque[Judged] = deque(maxlen=weights.back_depth + 1)
        self.begin(Stream(()), 1, 0)

    def begin(self, stream: Stream, edits_per_step: int, seed: int) -> None:
        """Look back no further than to the beginning of a stream.

        Args:
            stream: The stream.
            edits_per_step: Requests in a batch.
            seed: Draws one rephrase and one locality prompt of every request: what the reward looks
                at.
        """
        self._stream, self._size, self._seed = stream, edits_per_step, seed
        self._prompts = RewardedPrompts(self.task, stream, edits_per_step, seed)
        self._judged.clear()
        self._drawn: list[Judged] = []
        self._pool: Judged | None = None
        self._newest: int | None = None

    def push(self, decoder: EditableDecoder, step: int) -> None:
        """Look at a step's batch, once; activations below the sites and the reference are computed
        here. Of earlier batches the requests that it overwrites are looked at no more.
        """
        if step == self._newest:
            return
        count = (step + 1) * self._size
        earlier, drawn, pool = list[Judged](), list[Judged](), self._pool
        if self.weights.look_back == "uniform":
            depth = self.weights.back_depth
            rng = random.Random(f"looked back at {self._seed} {step}")
            chosen = rng.sample(range(step), min(depth, step))
            drawn = [self._batch(decoder, one, count, ()) for one in chosen]
            if pool is None:
                pool = self._batch(decoder, None, count, self._prompts.pool(depth + 1))
        else:
            earlier = [self._still_held(decoder, one, count) for one in self._judged]
        newest = self._batch(decoder, step, count, self._prompts.steps[step][1])
        # All at once: who is interrupted before looks anew.
        self._judged.clear()
        self._judged.extend([newest, *earlier][: self._judged.maxlen])
        self._drawn, self._pool, self._newest = drawn, pool, step

    def _still_held(self, decoder: EditableDecoder, one: Judged, count: int) -> Judged:
        """A batch that was looked at before, without the requests that the first `count` have
        overwritten.
        """
        places = self._holding(one.places, count)
        if places == one.places:
            return one
        return replace(one, places=places, **self._rephrases(decoder, places))

    def _batch(
        self, decoder: EditableDecoder, step: int | None, count: int, local: Sequence[str]
    ) -> Judged:
        """The rephrases of a step's requests that hold after the first `count`, and locality
        prompts.
        """
        start = None if step is None else step * self._size
        places = () if start is None else self._holding(range(start, start + self._size), count)
        locality = self.task.unchanged(local) if local else None
        prefix = None if locality is None else decoder.prefix(locality)
        told = self.weights.reference == "original"
        return Judged(
            **self._rephrases(decoder, places),
            places=places,
            locality=locality,
            locality_prefix=prefix,
            reference=self.task.reference(locality, prefix)
            if told and locality is not None
            else None,
        )

    def _weighed(self) -> list[tuple[Judged, float, float]]:
        """What is looked at, the newest batch first, with the weights of its rephrases and of its
        locality prompts.
        """
        weights = self.weights
        if weights.look_back == "recent":
            aged = ((one, weights.decay**age) for age, one in enumerate(self._judged))
            return [(one, weight, weight * weights.locality_weight) for one, weight in aged]
        step = self._newest or 0
        each = step / max(len(self._drawn), 1)
        seen = [(self._judged[0], 1.0, 0.0), *((one, each, 0.0) for one in self._drawn)]
        if self._pool is not None:
            seen.append((self._pool, 0.0, (step + 1) * weights.locality_weight))
        return seen

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
        for place, (one, weight, local_weight) in enumerate(self._weighed()):
            newest = place == 0
            if one.rephrases is not None:
                pieces.append(Term(one.rephrases, one.rephrases_prefix, weight, None, newest))
            if one.locality is not None and local_weight:
                reference = one.reference
                if reference is None:
                    with torch.no_grad():
                        reference = (
                            decoder.logits(one.locality, prefix=one.locality_prefix)
                            .float()
                            .log_softmax(-1)
                        )
                pieces.append(
                    Term(one.locality, one.locality_prefix, local_weight, reference, newest)
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
        told = any(piece.newest and piece.reference is not None for piece in pieces)
        if not told and not total.ndim:
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
    """Rewards, with `REWARD_FLOOR` for those below it or not finite."""
    return torch.where(torch.isfinite(reward), reward, REWARD_FLOOR).clamp(min=REWARD_FLOOR)


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
