"""What the unedited networks score on the batches that edits are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editgym.envs.worlds.draws import Draws
from editgym.envs.worlds.scores import RewardSettings
from editgym.envs.worlds.traces import Traces
from editgym.tasks.protocol import Task, score_of


@dataclass(frozen=True)
class Unedited:
    """The unedited networks on the batches of K candidates; every tensor is (K,).

    Attributes:
        utility: U.
        edit: O.
        accuracy: Accuracy on every reward set.
        value: V (`RewardSettings`).
    """

    utility: Tensor
    edit: Tensor
    accuracy: dict[str, Tensor]
    value: Tensor


class UneditedNetworks:
    """The unedited networks' scores, looked up: every sample of the pool is scored once.

    Args:
        task: Networks, goals and reward data.
        rewards: Reward terms.
        traces: What the reward takes off for what is left of the forgotten.
    """

    def __init__(self, task: Task, rewards: RewardSettings, traces: Traces) -> None:
        self._task, self._rewards, self._traces = task, rewards, traces

    def __call__(self, draws: Draws, rows: Sequence[Tensor]) -> Unedited:
        """The networks and goals of K candidates on a batch, without gradients.

        Args:
            draws: Which network and goal each candidate has.
            rows: Rows of the pool in every reward set, (K, batch), or (1, batch) for all alike.
        """
        task, rewards = self._task, self._rewards
        chosen = draws.network_index.to(task.device).unsqueeze(1)
        scores, accuracy = (
            {
                name: per_sample[chosen, r].mean(1)
                for name, r in zip(task.set_names, rows, strict=True)
            }
            for per_sample in (self._scores, self._correct)
        )
        utility, edit = task.utility(scores), task.edit(scores)
        value = rewards.alpha * utility + rewards.beta * edit
        if self._traces:
            value = value - self._trace_costs[draws.network_index.to(task.device), draws.goal_index]
        return Unedited(utility, edit, accuracy, value)

    def are(self, weights: Sequence[Tensor], draws: Draws) -> Tensor:
        """Which candidates' matrices are those of their unedited network, (K,), 0 or 1.

        Args:
            weights: (K, out, in) per site.
            draws: Which network each candidate has.
        """
        same = torch.ones(len(weights[0]), dtype=torch.bool, device=weights[0].device)
        for own, bases in zip(weights, self._bases, strict=True):
            base = bases if len(bases) == 1 else bases[draws.network_index]
            same &= (own.detach() == base).flatten(1).all(1)
        return same.float()

    # --- inside -----------------------------------------------------------------------------------

    @cached_property
    def _bases(self) -> list[Tensor]:
        """The unedited matrices, (networks, out, in) per site."""
        networks = [network.base_weights for network in self._task.networks]
        return [torch.stack(list(per_site)) for per_site in zip(*networks, strict=True)]

    @cached_property
    def _per_sample(self) -> tuple[Tensor, Tensor]:
        """Worth and correctness of every sample of the pool, (networks, n) each."""
        pool, score = self._task.pool, score_of(self._task)
        with torch.no_grad():
            found = [score(net.logits(pool.inputs), pool.labels) for net in self._task.networks]
        worth, correct = zip(*found, strict=True)
        return torch.stack(worth), torch.stack(correct)

    @property
    def _correct(self) -> Tensor:
        return self._per_sample[1]

    @property
    def _scores(self) -> Tensor:
        """A sample's score by the reward's signal."""
        return self._per_sample[0 if self._rewards.signal == "probability" else 1]

    @cached_property
    def _trace_costs(self) -> Tensor:
        """What the reward takes off for all that there is, (networks, goals)."""
        networks, goals = len(self._task.networks), len(self._task.goals)
        pairs = torch.cartesian_prod(torch.arange(networks), torch.arange(goals))
        with torch.no_grad():
            weights = [bases[pairs[:, 0]] for bases in self._bases]
            costs = self._traces(weights, pairs[:, 0], pairs[:, 1].to(self._task.device))
        return costs.view(networks, goals)
