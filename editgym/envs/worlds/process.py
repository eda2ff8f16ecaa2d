"""The decision process of MaskWorld and ShiftWorld for K candidates, in torch, on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editgym.envs import metering
from editgym.envs.worlds import sampling
from editgym.envs.worlds.probe import FeatureProbe
from editgym.metrics.classification import right_class
from editgym.tasks.protocol import Signal, Task
from editgym.weights import ActionLayout, EditableNetwork, Operator, Update

_NETWORK_STREAM, _GOAL_STREAM, _FIRST_SET_STREAM = 0, 1, 2
_EPISODE_BASE = 2**40  # counters of episodes start where those of steps never get


@dataclass(frozen=True)
class RewardSettings:
    """R = alpha · U + beta · O on a fresh batch.

    Attributes:
        alpha: Weight of the utility U.
        beta: Weight of the edit term O.
        signal: A sample's score: the probability of its class, or whether it is predicted.
        batch_size: Samples drawn, with replacement, from each reward set.
        shared_batch: Whether all candidates draw as the first one does: those of one goal are
            scored on one batch.
        probe_weight: Weight of −P, how well the features still tell the forgotten classes
            (`FeatureProbe`); 0 leaves it out.
    """

    alpha: float
    beta: float
    signal: Signal
    batch_size: int
    shared_batch: bool = False
    probe_weight: float = 0.0


@dataclass(frozen=True)
class StepOutcome:
    """What one step of K candidates gave; every tensor is (K,).

    Attributes:
        reward: R; carries gradients to the actions when the step was asked to be differentiable.
        utility: U.
        edit: O.
        accuracy: Accuracy on the batch of every reward set, after the edit.
        accuracy_before: The same of the unedited network on the same batch.
        is_success: Whether the task calls this a good edit.
        updates: What was applied, per site.
    """

    reward: Tensor
    utility: Tensor
    edit: Tensor
    accuracy: dict[str, Tensor]
    accuracy_before: dict[str, Tensor]
    is_success: Tensor
    updates: list[Update]


@dataclass(frozen=True)
class _Reference:
    """What never changes about one network: reused activations, and the unedited network's
    correctness.
    """

    activations: tuple[Tensor, ...]
    correct: Tensor  # (n,)


class EditingProcess:
    """K candidate edits side by side: states, transitions and rewards as tensors that never leave
    the device.

    This is the tensor API; `WeightEditingEnv` and `WeightEditingVectorEnv` put Gymnasium's
    interface around it.

    Attributes:
        weights: The current matrices, (K, out, in) per site.
        network_index: (K,), which network each candidate edits.
        goal_index: (K,), which goal each candidate has.
        uniform: Whether all candidates are in the same state, as at the start of episodes with one
            network and goal.

    Args:
        task: Networks, goals and reward data.
        operator: `Mask()` or `Shift(limit)`.
        layout: How actions hold updates.
        rewards: Reward terms and batch.
        candidates: K.
    """

    def __init__(
        self,
        task: Task,
        operator: Operator,
        layout: ActionLayout,
        rewards: RewardSettings,
        candidates: int,
    ) -> None:
        self.task, self.operator, self.layout, self.rewards = task, operator, layout, rewards
        self.candidates = candidates
        self.network_index = torch.zeros(candidates, dtype=torch.long)
        self.goal_index = torch.zeros(candidates, dtype=torch.long, device=task.device)
        self.weights: list[Tensor] = []
        self.uniform = False
        self._keys = torch.zeros(candidates, dtype=torch.long, device=task.device)
        self._steps = self._episodes = 0
        self._features = torch.stack([goal.features for goal in task.goals]).to(task.device)
        self._members = {
            name: _padded([goal.members[name] for goal in task.goals]) for name in task.set_names
        }
        self._references: dict[int, _Reference] = {}
        self._probe = FeatureProbe(task) if rewards.probe_weight else None
        drawn = rewards.batch_size * len(task.set_names)
        # Where the pool is no larger than a batch, scoring all of it once and weighting the samples
        # by how often each was drawn is the same reward for less work, and needs no copy of the
        # activations per candidate.
        self._weigh_pool = len(task.pool) <= drawn
        # With one goal a shared batch is one row for all candidates; goals draw from different
        # members.
        self._one_batch = rewards.shared_batch and len(task.goals) == 1

    # --- episodes ---------------------------------------------------------------------------------

    def seed(self, keys: Sequence[int]) -> None:
        """Start every candidate's random stream anew from its own key, (K,) integers below 2⁶³."""
        self._keys = torch.tensor(keys, dtype=torch.long, device=self.task.device)
        self._steps = self._episodes = 0

    def reset(self, network: int | None = None, goal: int | None = None) -> None:
        """Begin an episode: every candidate draws its network and goal, unless they are given."""
        counter = _EPISODE_BASE + self._episodes
        self._episodes += 1
        self.network_index = self._choose(
            network, len(self.task.networks), counter, _NETWORK_STREAM
        )
        self.goal_index = self._choose(goal, len(self.task.goals), counter, _GOAL_STREAM).to(
            self.task.device
        )
        bases = [network.base_weights for network in self.task.networks]
        if len(bases) == 1:
            self.weights = [weight.expand(self.candidates, -1, -1) for weight in bases[0]]
        else:
            self.weights = [
                torch.stack(per_site)[self.network_index] for per_site in zip(*bases, strict=True)
            ]
        self.uniform = len(bases) == 1 and len(self.task.goals) == 1

    @property
    def features(self) -> Tensor:
        """The current goals' features, (K, d)."""
        return self._features[self.goal_index]

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
        if differentiable and self.rewards.signal != "probability":
            raise ValueError(
                'signal="accuracy" has no gradient: use signal="probability" for differentiable'
                " steps"
            )
        with torch.set_grad_enabled(differentiable):
            updates = self.layout.unpack(actions)
            edited = [
                self.operator.edited(weight, update)
                for weight, update in zip(self.weights, updates, strict=True)
            ]
            outcome = self._score(edited, updates)
        self.weights = [weight.detach() for weight in edited]
        self.uniform = False
        self._steps += 1
        metering.record(self.candidates)
        return outcome

    # --- rewards ----------------------------------------------------------------------------------

    def _score(self, weights: list[Tensor], updates: list[Update]) -> StepOutcome:
        names = self.task.set_names
        rows = [self._draw(i, name) for i, name in enumerate(names)]  # per set (K, batch)
        if len(self.task.networks) == 1:
            scores = self._scores(0, weights, rows)
        else:
            parts, order = [], []
            for index in self.network_index.unique().tolist():
                own = (self.network_index == index).nonzero().flatten().to(self.task.device)
                own_rows = rows if self._one_batch else [r[own] for r in rows]
                parts.append(self._scores(index, [w[own] for w in weights], own_rows))
                order.append(own)
            scores = torch.cat(parts, dim=1)[:, torch.cat(order).argsort()]
        value, correct, before = scores  # each (K, sets)
        by_name = {name: value[:, i] for i, name in enumerate(names)}
        accuracy = {name: correct[:, i] for i, name in enumerate(names)}
        accuracy_before = {name: before[:, i] for i, name in enumerate(names)}
        utility, edit = self.task.utility(by_name), self.task.edit(by_name)
        reward = self.rewards.alpha * utility + self.rewards.beta * edit - self.probe_cost(weights)
        return StepOutcome(
            reward,
            utility,
            edit,
            accuracy,
            accuracy_before,
            self.task.is_success(accuracy, accuracy_before),
            updates,
        )

    def probe_cost(self, weights: Sequence[Tensor]) -> Tensor:
        """`probe_weight` · P of every candidate with these matrices, (K,); 0 where the reward
        leaves P out.
        """
        found = torch.zeros(self.candidates, device=self.task.device)
        if self._probe is None:
            return found
        for index in self.network_index.unique().tolist():
            own = (self.network_index == index).nonzero().flatten().to(self.task.device)
            found = found.index_put(
                (own,), self._probe(index, [w[own] for w in weights], self.goal_index[own])
            )
        return self.rewards.probe_weight * found

    def _draw(self, index: int, name: str) -> Tensor:
        """This step's batch of one reward set, rows of the pool: (K, batch), or (1, batch) where
        all share it.
        """
        members, sizes = self._members[name]
        goals, keys = self.goal_index, self._keys
        if self.rewards.shared_batch:
            keys = keys[:1].expand(self.candidates)
        if self._one_batch:
            goals, keys = goals[:1], keys[:1]
        drawn = sampling.indices(
            keys, self._steps, _FIRST_SET_STREAM + index, self.rewards.batch_size, sizes[goals]
        )
        return members[goals.unsqueeze(1), drawn]

    def _scores(self, index: int, weights: list[Tensor], rows: list[Tensor]) -> Tensor:
        """Mean score, accuracy and accuracy before of every set, (3, K, sets), of candidates on one
        network.
        """
        network, reference = self.task.networks[index], self._reference(index)
        labels, batch = self.task.pool.labels, self.rewards.batch_size
        if self._weigh_pool:
            counts = torch.stack([self._counts(r) for r in rows], dim=2)  # (K or 1, n, sets)

            def weighted(logits: Tensor, window: slice) -> Tensor:
                per_sample = self._per_sample(logits, labels, reference.correct)  # (k, 3, n)
                return per_sample @ (counts[0] if len(counts) == 1 else counts[window]) / batch

            return network.map_candidates(weighted, weights, reference.activations).transpose(0, 1)
        every = torch.cat(rows, dim=1)  # (K or 1, sets · batch)

        def mean(logits: Tensor, window: slice) -> Tensor:
            seen = every[0] if len(every) == 1 else every[window]
            per_sample = self._per_sample(logits, labels[seen], reference.correct[seen])
            return per_sample.unflatten(-1, (len(rows), batch)).mean(-1)  # (k, 3, sets)

        if len(every) == 1:
            shared = [a[every[0]] for a in reference.activations]
            return network.map_candidates(mean, weights, shared).transpose(0, 1)
        return network.map_candidates(mean, weights, reference.activations, every).transpose(0, 1)

    def _per_sample(self, logits: Tensor, labels: Tensor, before: Tensor) -> Tensor:
        """Score, correctness and correctness before of every sample, (k, 3, n)."""
        probability, correct = right_class(logits, labels)
        score = probability if self.rewards.signal == "probability" else correct
        return torch.stack([score, correct, before.expand_as(correct)], dim=1)

    def _counts(self, rows: Tensor) -> Tensor:
        """How often each sample of the pool was drawn, (len(rows), n)."""
        counts = torch.zeros(len(rows), len(self.task.pool), device=rows.device)
        return counts.scatter_add_(1, rows, torch.ones(1, device=rows.device).expand(rows.shape))

    @torch.no_grad()
    def _reference(self, index: int) -> _Reference:
        if index not in self._references:
            network: EditableNetwork = self.task.networks[index]
            correct = right_class(network.logits(self.task.pool.inputs), self.task.pool.labels)[1]
            self._references[index] = _Reference(
                network.activations(self.task.pool.inputs), correct
            )
        return self._references[index]

    def _choose(self, given: int | None, high: int, counter: int, stream: int) -> Tensor:
        if given is not None:
            return torch.full((self.candidates,), given)
        if high == 1:
            return torch.zeros(self.candidates, dtype=torch.long)
        return (
            sampling.indices(self._keys, counter, stream, 1, torch.full_like(self._keys, high))
            .flatten()
            .cpu()
        )


def _padded(members: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of unequal number as one matrix (goals, most), and their numbers (goals,)."""
    sizes = torch.tensor([len(rows) for rows in members], device=members[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(members), batch_first=True), sizes
