"""What a world's reward is made of, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from editgym.tasks.protocol import Signal

RewardKind = Literal["improvement", "absolute"]


@dataclass(frozen=True)
class RewardSettings:
    """What the reward is made of: V = alpha · U + beta · O − probe_weight · P − relearn_weight · L
    on a batch, and what becomes of V.

    Attributes:
        alpha: Weight of the utility U.
        beta: Weight of the edit term O.
        signal: A sample's score: the probability of its class, or whether it is predicted; the
            worth or the correctness of a task with a `score` of its own.
        batch_size: Samples drawn, with replacement, from each reward set.
        shared_batch: Whether all candidates draw as the first one does: those of one goal are
            scored on one batch.
        probe_weight: Weight of P, how well the features still tell the forgotten classes
            (`FeatureProbe`); 0 leaves it out.
        relearn_weight: Weight of L, how well the forgotten classes come back from a few images
            (`FewImageRelearning`); 0 leaves it out.
        kind: `"absolute"`: V of the weights as they are, on a batch that every step draws anew.
            `"improvement"`: how much a step added to V, on one batch for the whole episode.
    """

    alpha: float
    beta: float
    signal: Signal
    batch_size: int
    shared_batch: bool
    probe_weight: float
    relearn_weight: float = 0.0
    kind: RewardKind = "absolute"


@dataclass(frozen=True)
class Scores:
    """What K candidates' weights score; every tensor is (K,).

    Attributes:
        reward: R; carries gradients to the weights where they have any.
        gain: V less that of the unedited network on the same batch, without gradients; 0 where the
            reward is absolute.
        utility: U.
        edit: O.
        accuracy: Accuracy on the batch of every reward set, after the edit.
        accuracy_before: The same of the unedited network on the same batch.
        is_success: Whether the task calls this a good edit.
    """

    reward: Tensor
    gain: Tensor
    utility: Tensor
    edit: Tensor
    accuracy: dict[str, Tensor]
    accuracy_before: dict[str, Tensor]
    is_success: Tensor
