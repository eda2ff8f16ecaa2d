"""What the steps of a stream came to, whoever made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from editgym.envs.lifelong.grades import Grade

REWARDED = ("generalization", "locality")  # what a reward says of its batch
INFO_KEYS = ("reliability", *REWARDED, "tf_efficacy")


@dataclass(frozen=True)
class LifelongOutcome:
    """What one step gave.

    Attributes:
        reward: Scalar; carries gradients to the factors when the step was asked to be
            differentiable. 0 on closed streams.
        rewarded: What the reward says of the batch: `generalization` and `locality`, by the
            rewarded rephrases and locality prompts; `locality` is 0 where the batch has no such
            prompt. Empty where no reward was computed.
        grade: Computes what the batch's prompts came to, once.
    """

    reward: Tensor
    rewarded: Mapping[str, float]
    grade: Callable[[], Grade] = field(repr=False, compare=False)

    @property
    def answered(self) -> Tensor:
        """Which of the batch's prompts the model answered exactly right after the step,
        (edits_per_step,) bool.
        """
        return self.grade()[0]

    @property
    def metrics(self) -> dict[str, float]:
        """What the batch came to: `reliability` and `tf_efficacy`, by prompts, and `rewarded`."""
        return {**self.grade()[1], **self.rewarded}

    def kept(self) -> LifelongOutcome:
        """The outcome without its reward's graph, which would keep the step's tensors alive."""
        return replace(self, reward=self.reward.detach())


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
