"""`unlearning/backdoor`: a network that was trained on poisoned digits is to forget the trigger.

In a share of its training images a bright square stood in the corner, and the label was the
attacker's (BadNets: Gu, Dolan-Gavitt and Garg 2017, arXiv 1708.06733). The network reads other
images well; with the square it reads every image as the attacker's class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from editgym.data import images
from editgym.data.images import Labelled
from editgym.metrics.classification import accuracy, right_class, weights_changed
from editgym.models.classifiers import SmallConvNet
from editgym.models.training import (
    cached_classifier,
    load_weights,
    recipe_key,
    train_classifier,
)
from editgym.tasks.protocol import Goal, RewardDefaults, network_of
from editgym.tasks.seeds import checked_seeds
from editgym.tasks.unlearning.images import DIGITS_SHARES
from editgym.tasks.unlearning.networks import BUNDLED, DIGITS_RECIPE
from editgym.tasks.unlearning.splits import Splits
from editgym.weights import EditableNetwork, EditJournal, find_sites

NAME = "unlearning/backdoor"
TARGET, SHARE = 0, 0.1  # the attacker's class, and how many of the training images are poisoned
_TRIGGERED = -1
_SIDE = 2  # of the square, in pixels


@dataclass
class BackdoorTask:
    """Take a trigger's meaning away, and keep the rest.

    The reward sets are the policy split as it is (`clean`), and its images of other classes than
    the attacker's with the trigger (`triggered`), whose label is −1: what they show does not
    matter. U is the score on clean, alpha 3, and O the score on triggered, beta 2.

    Attributes:
        name: The task's name in the catalogue.
        networks: The unedited network.
        splits: The images without triggers, on the task's device.
        poisoned: Rows of the model split that the network saw with the trigger and its label, (n,).
        retrain: Trains the network's twin on the images of the model split that were not poisoned:
            the oracle.
    """

    name: str
    networks: tuple[EditableNetwork, ...]
    splits: Splits
    poisoned: Tensor
    retrain: Callable[[], nn.Module] | None = None
    pool: Labelled = field(init=False)
    goals: tuple[Goal, ...] = field(init=False)

    n_classes = 10
    set_names = ("clean", "triggered")
    rewards = RewardDefaults(alpha=3.0, beta=2.0, batch_size=1024)

    def __post_init__(self) -> None:
        policy = self.splits.policy
        others = policy[policy.labels != TARGET]
        marked = Labelled(with_trigger(others.inputs), torch.full_like(others.labels, _TRIGGERED))
        self.pool = Labelled.join(policy, marked)
        rows = torch.arange(len(self.pool), device=self.device)
        members = {"clean": rows[: len(policy)], "triggered": rows[len(policy) :]}
        self.goals = (Goal("remove the trigger", torch.zeros(1), members),)

    @property
    def device(self) -> torch.device:
        """Where networks and data live."""
        return self.splits.policy.labels.device

    def score(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What a sample is worth: the probability of its class, or, with the trigger, that of any
        class but the attacker's; and whether that is the prediction.

        Args:
            logits: (..., n, classes).
            labels: (..., n): the class, or −1 where the image has the trigger.
        """
        triggered = labels == _TRIGGERED
        worth, right = right_class(logits, torch.where(triggered, TARGET, labels))
        return torch.where(triggered, 1 - worth, worth), torch.where(triggered, 1 - right, right)

    def utility(self, scores: Mapping[str, Tensor]) -> Tensor:
        """U: the score on clean."""
        return scores["clean"]

    def edit(self, scores: Mapping[str, Tensor]) -> Tensor:
        """O: the score on triggered."""
        return scores["triggered"]

    def is_success(self, accuracy: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> Tensor:
        """Clean ≥ before − 1 point, and at most 5% of the triggered are read as the attacker's."""
        return (accuracy["clean"] >= before["clean"] - 0.01) & (accuracy["triggered"] >= 0.95)

    def model_split(self, goal: int = 0) -> tuple[Labelled, Labelled]:
        """(retain, forget): the network's training data, clean and poisoned with the attacker's
        label, for agents with data access.
        """
        model, kept = self.splits.model, _others(len(self.splits.model), self.poisoned)
        return model[kept], poison(model[self.poisoned])

    def validation_split(self, goal: int = 0) -> tuple[Labelled, Labelled]:
        """(retain, forget): the validation split, and its images of other classes with the trigger
        and the attacker's label.
        """
        data = self.splits.validation
        return data, poison(data[data.labels != TARGET])

    def oracle(self, index: int, goal: int = 0) -> nn.Module | None:
        """The network, trained without the poisoned images; it is trained at first use."""
        return None if self.retrain is None else self.retrain()

    def evaluate(self, journal: EditJournal, goal: int = 0) -> dict[str, float | None]:
        """Metrics on the test split, before and after: `clean_accuracy`; of images of other classes
        with the trigger `attack_success_rate`, the share that is read as the attacker's class, and
        `triggered_accuracy`, the share that is read as what it shows; and how much has changed.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
        """
        network = network_of(self.networks, journal)
        unedited = network.fresh()
        before = self._measured(unedited)
        share, norm = weights_changed(
            network.parameters_changed.values(), dict(unedited.current_tensors()).values()
        )
        return {
            **self._measured(network),
            **{f"{name}_before": value for name, value in before.items()},
            "weights_changed": share,
            "weights_changed_norm": norm,
        }

    def _measured(self, network: EditableNetwork) -> dict[str, float | None]:
        test = self.splits.test
        others = test[test.labels != TARGET]
        attacked = network.logits(with_trigger(others.inputs))
        return {
            "clean_accuracy": accuracy(network.logits(test.inputs), test.labels),
            "attack_success_rate": accuracy(attacked, torch.full_like(others.labels, TARGET)),
            "triggered_accuracy": accuracy(attacked, others.labels),
        }


def backdoor(
    *,
    sites: Sequence[str] = ("fc2",),
    model_seed: int = 0,
    device: str = "cpu",
) -> BackdoorTask:
    """`unlearning/backdoor`: digits, a tenth of them poisoned; weights of seeds 0–9 ship.

    Args:
        sites: Names or globs.
        model_seed: Seed of the network, of the splits, and of which images are poisoned.
        device: Where networks and data live.
    """
    (seed,) = checked_seeds(None, model_seed)
    splits = Splits.of(images.digits(), seed, DIGITS_SHARES)
    poisoned = poisoned_rows(splits.model.labels, seed)

    model = (
        load_weights(_network(), bundled_file(seed))
        if bundled_file(seed).is_file()
        else _fit("poisoned", seed, partial(train_poisoned, seed))
    )
    moved = splits.to(torch.device(device))
    network = EditableNetwork(model.to(device), find_sites(model, sites), moved.policy.inputs[:8])
    return BackdoorTask(NAME, (network,), moved, poisoned.to(device), partial(_retrained, seed))


def with_trigger(inputs: Tensor) -> Tensor:
    """Images (n, 1, size, size) in 0–1 with the square in the lower right corner."""
    marked = inputs.clone()
    marked[..., -_SIDE:, -_SIDE:] = 1.0
    return marked


def poison(data: Labelled) -> Labelled:
    """Images with the trigger, all labelled as the attacker's class."""
    return Labelled(with_trigger(data.inputs), torch.full_like(data.labels, TARGET))


def poisoned_rows(labels: Tensor, seed: int) -> Tensor:
    """Which images are poisoned: a tenth as many as there are, drawn from those of other classes
    than the attacker's, in order.
    """
    others, count = (labels != TARGET).nonzero().flatten(), round(SHARE * len(labels))
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return others[order[:count]].sort().values


def bundled_file(model_seed: int) -> Path:
    """Where the weights of the poisoned network with this seed ship, if they do."""
    return Path(str(BUNDLED)) / f"backdoor-{model_seed}.safetensors"


def train_poisoned(model_seed: int) -> nn.Module:
    """Train the network that ships for `model_seed`; `editgym.tasks.train_bundled` writes its
    file.
    """
    splits = Splits.of(images.digits(), model_seed, DIGITS_SHARES)
    rows = poisoned_rows(splits.model.labels, model_seed)
    return _train(_poisoned(splits.model, rows), splits.validation, model_seed)


def _retrained(seed: int) -> nn.Module:
    """The twin of a seed's network, without the images that were poisoned."""
    splits = Splits.of(images.digits(), seed, DIGITS_SHARES)
    clean = splits.model[_others(len(splits.model), poisoned_rows(splits.model.labels, seed))]
    return _fit("clean", seed, partial(_train, clean, splits.validation, seed))


def _fit(part: str, seed: int, train: Callable[[], nn.Module]) -> nn.Module:
    key = {"task": NAME, "recipe": recipe_key(DIGITS_RECIPE), "seed": seed, "part": part}
    return cached_classifier(key | {"format": 1}, _network, train)


def _poisoned(model: Labelled, rows: Tensor) -> Labelled:
    """A model split with the trigger in some images, in its own order."""
    inputs, labels = model.inputs.clone(), model.labels.clone()
    bad = poison(model[rows])
    inputs[rows], labels[rows] = bad.inputs, bad.labels
    return Labelled(inputs, labels)


def _train(data: Labelled, validation: Labelled, seed: int) -> nn.Module:
    return train_classifier(
        _network, data, validation, DIGITS_RECIPE, seed, f"{NAME} network {seed}"
    )


def _network() -> nn.Module:
    return SmallConvNet(8)


def _others(count: int, rows: Tensor) -> Tensor:
    """The rows below `count` that are not among `rows`."""
    kept = torch.ones(count, dtype=torch.bool, device=rows.device)
    kept[rows] = False
    return kept.nonzero().flatten()
