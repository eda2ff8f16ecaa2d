"""How well a network has unlearned by the validation split, which no report uses, and whether it
has diverged.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

import torch
from torch import Tensor, nn

from editgym.data.images import Labelled
from editgym.metrics.classification import accuracy
from editgym.tasks.protocol import Unlearnable

_MOST = 1_000  # samples of each set that are looked at
_AT_ONCE = 256


class Reading(NamedTuple):
    """Accuracies of a network on validation data.

    Attributes:
        retain: On what is to be kept.
        forget: On what is to be forgotten.
    """

    retain: float
    forget: float


class Validation:
    """A score of networks for one goal of an unlearning task.

    Samples of the validation split are looked at, at most 1,000 of each set; where it has none, as
    where random training samples are forgotten, those of the training data.

    Args:
        task: The task.
        goal: Index of the goal.
        model: The unedited network.

    Attributes:
        before: What the unedited network reaches.
        chance: What one constant answer reaches on what is to be kept.
    """

    def __init__(self, task: Unlearnable, goal: int, model: nn.Module) -> None:
        (retain, forget), (kept, gone) = task.model_split(goal), task.validation_split(goal)
        self._of_samples = "unseen" in task.set_names
        self._kept = _some(kept if len(kept) else retain)
        self._gone = _some(gone if len(gone) else forget)
        self.before = self.read(model)
        self.chance = float(self._kept.labels.bincount().max()) / len(self._kept)

    def read(self, model: nn.Module) -> Reading:
        """What a network reaches."""
        return Reading(*(_accuracy(model, part) for part in (self._kept, self._gone)))

    def score(self, reading: Reading) -> float:
        """The harmonic mean of the accuracy on what is to be kept and the drop on what is to be
        forgotten; where samples are forgotten, which need not become unknown, of the former and 1
        minus the distance of the two accuracies. From 0 to 1, more is better.
        """
        forgotten = (
            1 - abs(reading.forget - reading.retain)
            if self._of_samples
            else max(0.0, self.before.forget - reading.forget)
        )
        return statistics.harmonic_mean([reading.retain, forgotten])

    def has_diverged(self, reading: Reading) -> bool:
        """Whether a network that was better than one constant answer no longer is."""
        return self.before.retain > self.chance >= reading.retain

    def divergence(self, model: nn.Module) -> str | None:
        """In which way a network has diverged; None where it has not."""
        if not is_finite(model):
            return "its weights are not finite"
        reading = self.read(model)
        if not self.has_diverged(reading):
            return None
        return (
            f"of the validation data to be kept it classifies {reading.retain:.1%} rightly, and did"
            f" {self.before.retain:.1%}; one constant answer reaches {self.chance:.1%}"
        )


def is_finite(model: nn.Module) -> bool:
    """Whether all weights of a network are finite; a buffer, such as a mask, need not be."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _some(data: Labelled) -> Labelled:
    """All of some data, or 1,000 samples of more, always the same."""
    if len(data) <= _MOST:
        return data
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:_MOST]
    return data[chosen.to(data.labels.device)]


@torch.no_grad()
def _accuracy(model: nn.Module, data: Labelled) -> float:
    logits: list[Tensor] = [model(part) for part in data.inputs.split(_AT_ONCE)]
    return accuracy(torch.cat(logits), data.labels)
