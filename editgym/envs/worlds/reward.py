"""The reward of MaskWorld and ShiftWorld: what K candidates' weights score on their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from editgym.envs import metering
from editgym.envs.worlds.draws import Draws
from editgym.envs.worlds.scores import RewardSettings, Scores
from editgym.envs.worlds.traces import Traces, by_network
from editgym.envs.worlds.unedited import UneditedNetworks
from editgym.tasks.protocol import Task, score_of

_NUMBERS_AT_A_TIME = 2**26  # of activations that are not held


@dataclass(frozen=True)
class _Reference:
    """What never changes about one network: reused activations of the pool, None where they would
    fill the memory, and the unedited network's correctness.
    """

    activations: tuple[Tensor, ...] | None
    correct: Tensor  # (n,)


class Scorer:
    """Rewards of candidates' weights, as tensors that never leave the device.

    It holds nothing that a step changes: whoever owns weights has them scored.

    Attributes:
        task: Networks, goals and reward data.
        rewards: Reward terms and batch.
        traces: What the reward takes off for what is left of the forgotten.

    Args:
        task: Networks, goals and reward data.
        rewards: Reward terms and batch.
    """

    def __init__(self, task: Task, rewards: RewardSettings) -> None:
        self.task, self.rewards = task, rewards
        self._score = score_of(task)
        self._references: dict[int, _Reference] = {}
        self.traces = Traces(task, rewards)
        self._unedited = UneditedNetworks(task, rewards, self.traces)
        drawn = rewards.batch_size * len(task.set_names)
        # Where the pool is no larger than a batch, scoring all of it once and weighting the samples
        # by how often each was drawn is the same reward for less work, and needs no copy of the
        # activations per candidate.
        self._weigh_pool = len(task.pool) <= drawn

    def check_differentiable(self) -> None:
        """Raise the ValueError of a reward that has no gradient."""
        if self.rewards.signal != "probability":
            raise ValueError(
                'signal="accuracy" has no gradient: use signal="probability" for differentiable'
                " steps"
            )

    def draws(self, candidates: int) -> Draws:
        """The random streams of K candidates whose batches this scorer takes."""
        rewards = self.rewards
        return Draws(
            self.task,
            rewards.batch_size,
            rewards.shared_batch,
            candidates,
            per_episode=rewards.kind == "improvement",
        )

    def score(
        self, weights: Sequence[Tensor], draws: Draws, gained: Tensor | float = 0.0
    ) -> Scores:
        """Rewards of K candidates on their next batch; they count K reward calls.

        Args:
            weights: The matrices to score, (K, out, in) per site.
            draws: Which network and goal each candidate has, and its random stream, which moves on.
            gained: The `gain` of the matrices before this step's edit, (K,): an improvement counts
                from there, and so an episode's rewards add up to its last gain.
        """
        names, rows = self.task.set_names, draws.batch()
        value, correct, before = self._scores(weights, draws.network_index, rows)  # each (K, sets)
        by_name = {name: value[:, i] for i, name in enumerate(names)}
        accuracy = {name: correct[:, i] for i, name in enumerate(names)}
        accuracy_before = {name: before[:, i] for i, name in enumerate(names)}
        utility, edit = self.task.utility(by_name), self.task.edit(by_name)
        cost = self.traces(weights, draws.network_index, draws.goal_index)
        reward = self.rewards.alpha * utility + self.rewards.beta * edit - cost
        gain = torch.zeros_like(reward)
        if self.rewards.kind == "improvement":
            improved = reward - self._unedited(draws, rows).value
            # Scored in two ways, no edit gains what rounding leaves; its gradient stays.
            improved = improved - improved.detach() * self._unedited.are(weights, draws)
            reward, gain = improved - gained, improved.detach()
        is_success = self.task.is_success(accuracy, accuracy_before)
        draws.advance()  # last: a step that is interrupted before it is made again, on its batch
        metering.record(len(weights[0]), gradient=torch.is_grad_enabled())
        return Scores(reward, gain, utility, edit, accuracy, accuracy_before, is_success)

    @torch.no_grad()
    def unedited(self, draws: Draws) -> Scores:
        """What no edit scores on the batch that is next, which stays the next; nothing is counted:
        the unedited networks were scored once, sample by sample.
        """
        before = self._unedited(draws, draws.batch())
        nothing = torch.zeros_like(before.value)
        return Scores(
            nothing if self.rewards.kind == "improvement" else before.value,
            nothing,
            before.utility,
            before.edit,
            before.accuracy,
            before.accuracy,
            self.task.is_success(before.accuracy, before.accuracy),
        )

    # --- inside -----------------------------------------------------------------------------------

    def _scores(
        self, weights: Sequence[Tensor], network_index: Tensor, rows: list[Tensor]
    ) -> Tensor:
        """Mean score, accuracy and accuracy before of every set, (3, K, sets)."""
        if len(self.task.networks) == 1:
            return self._on_network(0, weights, rows)
        parts, order = [], []
        for index, own in by_network(network_index, self.task.device):
            own_rows = [r if len(r) == 1 else r[own] for r in rows]
            parts.append(self._on_network(index, [w[own] for w in weights], own_rows))
            order.append(own)
        return torch.cat(parts, dim=1)[:, torch.cat(order).argsort()]

    def _on_network(self, index: int, weights: Sequence[Tensor], rows: list[Tensor]) -> Tensor:
        """The same of candidates on one network."""
        network, reference = self.task.networks[index], self._reference(index)
        labels, batch = self.task.pool.labels, self.rewards.batch_size
        if reference.activations is None:
            return self._piece_by_piece(index, weights, torch.cat(rows, dim=1)).transpose(0, 1)
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

    def _piece_by_piece(self, index: int, weights: Sequence[Tensor], every: Tensor) -> Tensor:
        """Mean score, accuracy and accuracy before of every set, (K, 3, sets), of a pool whose
        activations are not held.

        Args:
            index: The network.
            weights: (K, out, in) per site.
            every: Rows of the pool, set after set, (K, sets · batch), or (1, ...) for all alike.
        """
        network, correct = self.task.networks[index], self._reference(index).correct
        pool, together = self.task.pool, max(1, _NUMBERS_AT_A_TIME // network.numbers)

        def measured(own: Sequence[Tensor], rows: Tensor) -> Tensor:
            parts = []
            for some in rows.split(together):
                seen = network.activations(pool.inputs[some])
                score = partial(self._in_window, pool.labels[some], correct[some])
                parts.append(network.map_candidates(score, own, seen))
            return torch.cat(parts, dim=-1).unflatten(-1, (-1, self.rewards.batch_size)).mean(-1)

        if len(every) == 1:
            return measured(weights, every[0])
        return torch.cat(
            [measured([w[i : i + 1] for w in weights], rows) for i, rows in enumerate(every)]
        )

    def _in_window(self, labels: Tensor, before: Tensor, logits: Tensor, _: slice) -> Tensor:
        return self._per_sample(logits, labels, before)

    def _per_sample(self, logits: Tensor, labels: Tensor, before: Tensor) -> Tensor:
        """Score, correctness and correctness before of every sample, (k, 3, n)."""
        if labels.dim() == self.task.pool.labels.dim():  # the same samples for all candidates
            labels = labels.expand(len(logits), *labels.shape)
        worth, correct = self._score(logits, labels)
        score = worth if self.rewards.signal == "probability" else correct
        return torch.stack([score, correct, before.expand_as(correct)], dim=1)

    def _counts(self, rows: Tensor) -> Tensor:
        """How often each sample of the pool was drawn, (len(rows), n)."""
        counts = torch.zeros(len(rows), len(self.task.pool), device=rows.device)
        return counts.scatter_add_(1, rows, torch.ones(1, device=rows.device).expand(rows.shape))

    @torch.no_grad()
    def _reference(self, index: int) -> _Reference:
        if index not in self._references:
            network = self.task.networks[index]
            logits = network.logits(self.task.pool.inputs)
            correct = self._score(logits, self.task.pool.labels)[1]
            self._references[index] = _Reference(network.held(self.task.pool.inputs), correct)
        return self._references[index]
