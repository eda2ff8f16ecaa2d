"""K candidate edits side by side, in torch, on one device: the worlds' tensor API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editgym.envs.tensors import ordinary_tensors
from editgym.envs.worlds.reward import Scorer
from editgym.envs.worlds.scores import Scores
from editgym.weights import ActionLayout, Operator, Update
from editgym.weights.factors import widened


@dataclass(frozen=True)
class StepOutcome(Scores):
    """What one step of K candidates gave.

    Attributes:
        updates: What was applied, per site.
    """

    updates: list[Update]


class Candidates:
    """K candidates' weights, edited and scored step by step; nothing leaves the device.

    `WeightEditingVectorEnv` puts Gymnasium's interface around it. Actions are not checked here, and
    episodes do not end.

    Attributes:
        weights: The current matrices, (K, out, in) per site.
        draws: Which network and goal each candidate has, and its random stream.
        uniform: Whether all candidates are in the same state, as at the start of episodes with one
            network and goal.

    Args:
        scorer: What rewards them.
        operator: `Mask()` or `Shift(limit)`.
        layout: How actions hold updates.
        count: K.
    """

    def __init__(
        self, scorer: Scorer, operator: Operator, layout: ActionLayout, count: int
    ) -> None:
        self.scorer, self.operator, self.layout, self.count = scorer, operator, layout, count
        self.draws = scorer.draws(count)
        self.weights: list[Tensor] = []
        self.uniform = False
        self._gained: Tensor | float = 0.0

    @property
    def network_index(self) -> Tensor:
        """Which network each candidate edits, (K,), on CPU."""
        return self.draws.network_index

    @property
    def goal_index(self) -> Tensor:
        """Which goal each candidate has, (K,)."""
        return self.draws.goal_index

    def seed(self, keys: Sequence[int | None]) -> None:
        """Start every candidate's random stream anew from its own key, (K,) integers below 2⁶³;
        where the key is None it goes on.
        """
        self.draws.seed(keys)

    @ordinary_tensors()
    def reset(self, network: int | None = None, goal: int | None = None) -> None:
        """Begin an episode: every candidate draws its network and goal, unless they are given."""
        self.draws.begin(network, goal)
        task = self.scorer.task
        bases = [network.base_weights for network in task.networks]
        if len(bases) == 1:
            self.weights = [weight.expand(self.count, -1, -1) for weight in bases[0]]
        else:
            self.weights = [
                torch.stack(per_site)[self.network_index] for per_site in zip(*bases, strict=True)
            ]
        self.uniform = len(bases) == 1 and len(task.goals) == 1
        self._gained = 0.0

    @ordinary_tensors()
    def step(self, actions: Tensor, *, differentiable: bool = False) -> StepOutcome:
        """Edit every candidate and score it on a fresh batch.

        Args:
            actions: (K, action size) on the task's device; finite and in [−1, 1] (not checked
                here).
            differentiable: Whether `reward` carries gradients to `actions`. Needs the probability
                signal. The state after the step is detached: no gradient goes through earlier
                steps.

        Raises:
            ValueError: A differentiable step is asked for with the accuracy signal.
        """
        if differentiable:
            self.scorer.check_differentiable()
        with torch.set_grad_enabled(differentiable):
            updates = self.layout.unpack(actions)
            edited = [
                # As a single environment's network does it: half precision would round the sum.
                self.operator.edited(widened(weight), update).to(weight.dtype)
                for weight, update in zip(self.weights, updates, strict=True)
            ]
            scores = self.scorer.score(edited, self.draws, self._gained)
        self.weights = [weight.detach() for weight in edited]
        self.uniform, self._gained = False, scores.gain
        return StepOutcome(**vars(scores), updates=updates)
