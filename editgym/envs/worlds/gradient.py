"""The gradient of V, a world's reward terms, by the edited matrices, on a fixed sample of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editgym.envs import metering
from editgym.envs.worlds.reward import Scorer
from editgym.tasks.protocol import score_of
from editgym.weights import full_precision

_SAMPLES = 512  # of each reward set


@dataclass(frozen=True)
class CostGradient:
    """Minus V with some matrices at the sites, and its gradient by them.

    Attributes:
        cost: Minus V, the weighted terms of the reward, of which an improvement is a difference.
        gradients: The cost's gradient by every site's matrix, each (out, in).
    """

    cost: float
    gradients: tuple[Tensor, ...]


@dataclass(frozen=True)
class _Samples:
    """The samples of one network and goal.

    Attributes:
        activations: What no edit changes of them, in this network.
        labels: Their labels, (n, ...).
        sizes: How many are of each reward set, in the sets' order.
    """

    activations: tuple[Tensor, ...]
    labels: Tensor
    sizes: list[int]


class CostGradients:
    """Gradients of minus V, over each reward set or 512 samples of a larger one.

    The samples are always the same, so two gradients differ by the weights alone; a reward's fresh
    batch would put its noise between them.

    Args:
        scorer: The reward.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, self._task = scorer, scorer.task
        self._samples: dict[tuple[int, int], _Samples] = {}  # by network and goal

    def __call__(self, network: int, goal: int, weights: Sequence[Tensor]) -> CostGradient:
        """The cost of a network with these matrices at the sites, and its gradient by them.

        A sample's score is the probability of its class, or what it is worth to a task with a
        `score` of its own, whatever the reward's signal, which may have no gradient. It counts one
        reward call.

        Args:
            network: Index among the task's networks.
            goal: Index among the task's goals.
            weights: One matrix (out, in) per site.
        """
        task, samples, rewards = self._task, self._samples_of(network, goal), self._scorer.rewards
        where = torch.tensor([network]), torch.tensor([goal], device=task.device)
        leaves = [weight.detach().clone().requires_grad_() for weight in weights]
        with torch.enable_grad(), full_precision():  # backward too
            candidate = [leaf.unsqueeze(0) for leaf in leaves]
            logits = task.networks[network].candidate_logits(candidate, samples.activations)[0]
            worth = score_of(task)(logits, samples.labels)[0]
            means = [part.mean().reshape(1) for part in worth.split(samples.sizes)]
            scores = dict(zip(task.set_names, means, strict=True))
            cost = -(rewards.alpha * task.utility(scores) + rewards.beta * task.edit(scores)).sum()
            cost = cost + self._scorer.traces(candidate, *where).sum()
            found = torch.autograd.grad(cost, leaves)
        metering.record(1, gradient=True)
        return CostGradient(float(cost.detach()), found)

    def _samples_of(self, network: int, goal: int) -> _Samples:
        if (network, goal) not in self._samples:
            task = self._task
            rows = [_sampled(task.goals[goal].members[name]) for name in task.set_names]
            every = torch.cat(rows)
            self._samples[network, goal] = _Samples(
                task.networks[network].activations(task.pool.inputs[every]),
                task.pool.labels[every],
                [len(part) for part in rows],
            )
        return self._samples[network, goal]


def _sampled(members: Tensor) -> Tensor:
    """Rows of a reward set: all, or `_SAMPLES` of them, always the same; the first ones need not be
    like the rest.
    """
    if len(members) <= _SAMPLES:
        return members
    chosen = torch.randperm(len(members), generator=torch.Generator().manual_seed(0))[:_SAMPLES]
    return members[chosen.to(members.device)]
