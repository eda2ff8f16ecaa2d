"""What an environment needs of a task: networks, reward data, reward terms; and of a harness:
metrics on test data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from editgym.data.images import Labelled
from editgym.metrics.classification import right_class
from editgym.weights import EditableNetwork, EditJournal, Rank
from editgym.weights.journal.journal import require_journal

Signal = Literal["probability", "accuracy"]
Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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

    A task may also have a method `score(logits, labels)`: what a sample is worth (`score_of`). With
    it, outputs and labels can be anything: numbers, several labels each, a class for every pixel.

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


@runtime_checkable
class Unlearnable(Task, Protocol):
    """A task whose networks were trained on data that can be divided into what they should keep
    and what they should forget: what the unlearning algorithms need.

    Attributes:
        n_classes: Number of classes.
        retrain: What trains the oracle; None where it cannot be trained.
    """

    n_classes: int
    retrain: Callable[..., nn.Module] | None

    def model_split(self, goal: int = 0) -> tuple[Labelled, Labelled]:
        """(retain, forget): the network's own training data, with classes as labels, divided by a
        goal.
        """
        ...

    def validation_split(self, goal: int = 0) -> tuple[Labelled, Labelled]:
        """The same of data that no network was trained on and no report uses, to choose settings
        on; where training samples are forgotten these are the second part.
        """
        ...

    def oracle(self, index: int, goal: int = 0) -> nn.Module | None:
        """The network of the given index, retrained without what is to be forgotten; None where it
        cannot be.
        """
        ...


def network_of(networks: tuple[EditableNetwork, ...], journal: EditJournal) -> EditableNetwork:
    """A fresh one of `networks`, the one that a journal was recorded on, with the journal replayed.

    Raises:
        TypeError: It is no journal.
        JournalError: The journal belongs to none of them.
    """
    require_journal(journal)
    own = [network for network in networks if network.base_hash == journal.base_hash]
    network = (own or networks)[0].fresh()
    network.replay(journal)
    return network


def score_of(task: Any) -> Score:
    """What a sample of a task is worth, as a function of logits and labels: `task.score` where it
    has one, else `right_class`, the probability of the right class and whether it is predicted.

    A reward set's score is the mean worth of its samples (`signal="probability"`) or the mean
    correctness (`signal="accuracy"`), and its accuracy in infos and reports is the mean
    correctness. All of an environment uses it: steps, vectors of candidates, gradients.

    A task's own function gets logits (..., n, *out) and labels (..., n, *kind), both with the same
    leading dimensions, such as candidates and samples, and returns worth and correctness, (..., n)
    each, of any type; rewards are of their values in float32. A gradient can be taken where worth
    is differentiable in the logits; correctness is 0, 1 or, where a sample has many answers, a
    share.

    Args:
        task: A `Task`, whatever it has as properties.

    Raises:
        ValueError: From the function, where `task.score` returns something of another form.
    """
    return right_class if getattr(task, "score", None) is None else _OwnScore(task)


@dataclass(frozen=True)
class _OwnScore:
    """A task's own `score`, checked and in float32; no closure, so that environments pickle."""

    task: Any

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        kind = self.task.pool.labels.dim() - 1
        each = labels.shape[: labels.dim() - kind]
        found = self.task.score(logits, labels)
        parts = found if isinstance(found, tuple) else (found,)
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else part for part in parts]
        if shapes != [tuple(each)] * 2:
            raise ValueError(
                f"{self.task.name}: score must return worth and correctness of each sample, two"
                f" tensors of shape {tuple(each)} for logits {tuple(logits.shape)} and labels"
                f" {tuple(labels.shape)}; got {shapes}"
            )
        worth, correct = found
        return worth.float(), correct.float()


def correctness(task: Any, logits: Tensor, labels: Tensor) -> float:
    """The accuracy of logits as the task scores them; nan for no sample."""
    return float(score_of(task)(logits, labels)[1].double().mean())
