"""What the steps of a stream came to, whoever made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

INFO_KEYS = ("reliability", "generalization", "locality", "tf_efficacy")


@dataclass(frozen=True)
class LifelongOutcome:
    """What one step gave.

    Attributes:
        reward: Scalar; carries gradients to the factors when the step was asked to be
            differentiable. 0 on closed streams.
        answered: Which of the batch's prompts the model answered exactly right after the step,
            (edits_per_step,) bool.
        metrics: What the batch came to: `reliability` and `tf_efficacy`, by prompts; where a reward
            was computed also `generalization` and `locality`, by the rewarded rephrases and
            locality prompts; `locality` is 0 where the batch has no such prompt.
    """

    reward: Tensor
    answered: Tensor
    metrics: dict[str, float]

    def kept(self) -> LifelongOutcome:
        """The outcome without its reward's graph, which would keep the step's tensors alive."""
        return replace(self, reward=self.reward.detach())

    def state_dict(self) -> dict[str, Any]:
        """The outcome as plain values."""
        return {
            "reward": float(self.reward),
            "answered": self.answered.tolist(),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> LifelongOutcome:
        """The outcome that `state_dict` was asked of."""
        return cls(
            torch.tensor(state["reward"]), torch.tensor(state["answered"]), dict(state["metrics"])
        )


@dataclass(frozen=True)
class StreamEpisode:
    """An episode so far: made when somebody looks at it, from what every step gave.

    Attributes:
        title: Name of the task.
        horizon: Steps in the episode.
        edits_per_step: Requests in a step.
        outcomes: What the steps gave, in order.
    """

    title: str
    horizon: int
    edits_per_step: int
    outcomes: Sequence[LifelongOutcome]

    @property
    def rewards(self) -> list[float]:
        """The steps' rewards."""
        return [float(outcome.reward) for outcome in self.outcomes]

    @property
    def infos(self) -> list[dict[str, float]]:
        """The steps' infos, as `step` returns them."""
        return [self.info(step) for step in range(len(self.outcomes))]

    def info(self, step: int) -> dict[str, float]:
        """The info of a step; -1 is the last one."""
        outcome, done = self.outcomes[step], range(len(self.outcomes))[step] + 1
        return {
            **{key: outcome.metrics.get(key, 0.0) for key in INFO_KEYS},
            "edit_step": float(done),
            "edits_done": float(done * self.edits_per_step),
            "is_success": float(outcome.answered.all()),
        }
