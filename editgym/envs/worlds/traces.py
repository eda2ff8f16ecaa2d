"""What an edit leaves of the forgotten: the terms that a reward takes off for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from editgym.envs.worlds.probe import FeatureProbe
from editgym.envs.worlds.relearning import FewImageRelearning
from editgym.envs.worlds.scores import RewardSettings
from editgym.tasks.protocol import Task

# term(network's index, matrices at the sites (k, out, in), goals (k,)) -> (k,), each 0–1.
Term = Callable[[int, Sequence[Tensor], Tensor], Tensor]


class Traces:
    """`probe_weight` · P + `relearn_weight` · L of K candidates' matrices.

    P is `FeatureProbe`, L is `FewImageRelearning`. A term of weight 0 is never computed.

    Args:
        task: Networks, goals and reward data.
        rewards: The weights of the terms.

    Raises:
        ValueError: A term with a weight has nothing to measure in this task.
    """

    def __init__(self, task: Task, rewards: RewardSettings) -> None:
        self._device = task.device
        self._terms: list[tuple[float, Term]] = []
        if rewards.probe_weight:
            self._terms.append((rewards.probe_weight, FeatureProbe(task)))
        if rewards.relearn_weight:
            self._terms.append((rewards.relearn_weight, FewImageRelearning(task)))

    def __bool__(self) -> bool:
        """Whether there is any term."""
        return bool(self._terms)

    def __call__(
        self, weights: Sequence[Tensor], network_index: Tensor, goal_index: Tensor
    ) -> Tensor:
        """The cost of every candidate with these matrices, (K,).

        Args:
            weights: (K, out, in) per site.
            network_index: (K,), which network each candidate edits.
            goal_index: (K,), which goal each candidate has.
        """
        cost = torch.zeros(len(weights[0]), device=self._device)
        if not self._terms:
            return cost
        for index, own in by_network(network_index, self._device):
            matrices, goals = [w[own] for w in weights], goal_index[own]
            found = sum(weight * term(index, matrices, goals) for weight, term in self._terms)
            cost = cost.index_put((own,), torch.as_tensor(found))
        return cost


def by_network(network_index: Tensor, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Every network that a candidate edits, and those candidates' places, on the device."""
    for index in network_index.unique().tolist():
        yield index, (network_index == index).nonzero().flatten().to(device)
