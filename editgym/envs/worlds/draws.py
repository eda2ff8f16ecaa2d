"""What chance decides for K candidates: networks and goals of episodes, and batches of steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from editgym.envs.worlds import sampling
from editgym.tasks.protocol import Task

_NETWORK_STREAM, _GOAL_STREAM, _FIRST_SET_STREAM = 0, 1, 2
_EPISODE_BASE = 2**40  # counters of episodes start where those of steps never get


class Draws:
    """The random streams of K candidates, and what they have drawn for the current episode.

    Attributes:
        network_index: (K,), which network each candidate edits; on CPU.
        goal_index: (K,), which goal each candidate has; on the task's device.

    Args:
        task: Networks, goals and reward data.
        batch_size: Samples drawn, with replacement, from each reward set.
        shared_batch: Whether all candidates draw as the first one does.
        candidates: K.
        per_episode: Whether an episode's steps are scored on one batch, not each on its own.
    """

    def __init__(
        self,
        task: Task,
        batch_size: int,
        shared_batch: bool,
        candidates: int,
        *,
        per_episode: bool = False,
    ) -> None:
        self._task, self._batch_size, self._shared = task, batch_size, shared_batch
        self._candidates, self._per_episode = candidates, per_episode
        self.network_index = torch.zeros(candidates, dtype=torch.long)
        self.goal_index = torch.zeros(candidates, dtype=torch.long, device=task.device)
        self._keys = torch.zeros(candidates, dtype=torch.long, device=task.device)
        self._steps, self._episodes = torch.zeros_like(self._keys), torch.zeros_like(self._keys)
        self._batch: list[Tensor] | None = None
        self._features = torch.stack([goal.features for goal in task.goals]).to(task.device)
        self._members = {
            name: _padded([goal.members[name] for goal in task.goals]) for name in task.set_names
        }
        # With one goal a shared batch is one row for all candidates; goals draw from different
        # members.
        self._one_batch = shared_batch and len(task.goals) == 1

    @property
    def features(self) -> Tensor:
        """The current goals' features, (K, d)."""
        return self._features[self.goal_index]

    def seed(self, keys: Sequence[int | None]) -> None:
        """Start every candidate's random stream anew from its own key, (K,) integers below 2⁶³;
        where the key is None it goes on.
        """
        device = self._task.device
        kept = torch.tensor([key is None for key in keys], device=device)
        given = torch.tensor([key or 0 for key in keys], dtype=torch.long, device=device)
        self._keys = torch.where(kept, self._keys, given)
        self._steps, self._episodes = self._steps * kept, self._episodes * kept
        self._batch = None

    def begin(self, network: int | None = None, goal: int | None = None) -> None:
        """Draw every candidate's network and goal of a new episode, unless they are given."""
        counter = _EPISODE_BASE + self._episodes
        self._episodes = self._episodes + 1
        self._batch = None
        networks, goals = len(self._task.networks), len(self._task.goals)
        self.network_index = self._choose(network, networks, counter, _NETWORK_STREAM)
        self.goal_index = self._choose(goal, goals, counter, _GOAL_STREAM).to(self._task.device)

    def batch(self) -> list[Tensor]:
        """The next step's batch: per reward set rows of the pool, (K, batch_size), or
        (1, batch_size) where all candidates share them; the same until `advance`, or until the next
        episode where there is one batch for each.
        """
        if self._batch is None:
            self._batch = [self._rows(i, name) for i, name in enumerate(self._task.set_names)]
        return self._batch

    def advance(self) -> None:
        """Move on to the batch of the following step: this one's has been scored."""
        self._steps = self._steps + 1
        if not self._per_episode:
            self._batch = None

    def _rows(self, index: int, name: str) -> Tensor:
        members, sizes = self._members[name]
        goals, keys, steps = self.goal_index, self._keys, self._steps
        if self._shared:
            keys, steps = (own[:1].expand(self._candidates) for own in (keys, steps))
        if self._one_batch:
            goals, keys, steps = goals[:1], keys[:1], steps[:1]
        drawn = sampling.indices(
            keys, steps, _FIRST_SET_STREAM + index, self._batch_size, sizes[goals]
        )
        return members[goals.unsqueeze(1), drawn]

    def _choose(self, given: int | None, high: int, counter: Tensor, stream: int) -> Tensor:
        if given is not None:
            return torch.full((self._candidates,), given)
        if high == 1:
            return torch.zeros(self._candidates, dtype=torch.long)
        highs = torch.full_like(self._keys, high)
        return sampling.indices(self._keys, counter, stream, 1, highs).flatten().cpu()


def check_goals(task: Task) -> None:
    """Refuse a task of which no episode can be drawn, or no batch.

    Raises:
        ValueError: It has no network or no goal; or a goal has no samples in a reward set, or rows
            that the reward data do not have. The message names goal and set.
    """
    for name in ("networks", "goals"):
        if not len(getattr(task, name)):
            raise ValueError(f"task: {task.name} has no {name}; an episode needs one at least")
    for goal in task.goals:
        for name in task.set_names:
            place = f"task: the goal {goal.label!r} of {task.name}"
            if name not in goal.members:
                raise ValueError(
                    f"{place} has no members {name!r}; its reward sets are"
                    f" {', '.join(task.set_names)}"
                )
            rows = goal.members[name]
            if not len(rows):
                raise ValueError(
                    f"{place} has no samples in its reward set {name!r}; a batch is drawn from them"
                )
            low, high, most = int(rows.min()), int(rows.max()), len(task.pool) - 1
            if low < 0 or high > most:
                raise ValueError(
                    f"{place} has the row {low if low < 0 else high} in its reward set {name!r};"
                    f" rows of the pool are 0 … {most}"
                )


def _padded(members: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of unequal number as one matrix (goals, most), and their numbers (goals,)."""
    sizes = torch.tensor([len(rows) for rows in members], device=members[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(members), batch_first=True), sizes
