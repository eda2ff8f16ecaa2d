"""What an environment needs of a task: networks, reward data, reward terms; and of a harness:
metrics on test data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from editgym.data.images import Labelled
from editgym.weights import EditableNetwork, EditJournal, Rank

Signal = Literal["probability", "accuracy"]


@dataclass(frozen=True)
class Goal:
    """One thing that an edit can be asked for.

    Attributes:
        label: Short name, e.g. `forget 7`.
        features: What `observe_task` appends to the observation, e.g. the forgotten classes
            one-hot; (d,) in 0–1.
        members: Rows of the reward pool in each reward set, by the set's name.
    """

    label: str
    features: Tensor
    members: Mapping[str, Tensor]


@dataclass(frozen=True)
class RewardDefaults:
    """A task's own weights in R = alpha·U + beta·O, batch and rank of edits, where the environment
    is given none.
    """

    alpha: float
    beta: float
    batch_size: int
    rank: Rank = 4


@runtime_checkable
class Task(Protocol):
    """A model, its data splits, reward terms and metrics.

    Rewards come from `pool`, which is the *policy* split; `evaluate` uses the *test* split. The two
    share no sample.

    Attributes:
        name: The task's name in the catalogue.
        networks: The networks an episode may start from, of one shape, unedited.
        goals: The goals an episode may have.
        pool: The reward data; goals point into it.
        set_names: The reward sets, e.g. `("retain", "forget")`: they name the keys of `info`.
        rewards: Default weights.
        device: Where networks and data live.
    """

    name: str
    networks: tuple[EditableNetwork, ...]
    goals: tuple[Goal, ...]
    pool: Labelled
    set_names: tuple[str, ...]
    rewards: RewardDefaults
    device: torch.device

    def utility(self, scores: Mapping[str, Tensor]) -> Tensor:
        """U, (K,), from the mean score of every reward set."""
        ...

    def edit(self, scores: Mapping[str, Tensor]) -> Tensor:
        """O, (K,), from the mean score of every reward set."""
        ...

    def is_success(self, accuracy: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        """Whether the accuracies of a reward batch, after against before, make a good edit; (K,)
        bool.
        """
        ...

    def evaluate(self, journal: EditJournal, goal: int = 0) -> dict[str, float | None]:
        """The leaderboard's metrics of an edit, on test data, before and after.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
        """
        ...


def network_of(networks: tuple[EditableNetwork, ...], journal: EditJournal) -> EditableNetwork:
    """A fresh one of `networks`, the one that a journal was recorded on, with the journal replayed.

    Raises:
        JournalError: The journal belongs to none of them.
    """
    own = [network for network in networks if network.base_hash == journal.base_hash]
    network = (own or networks)[0].fresh()
    network.replay(journal)
    return network
