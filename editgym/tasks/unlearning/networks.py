"""Networks of image tasks: trained here and retrained without what is to be forgotten, or given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import nn

from editgym.data.images import ImageData, Labelled
from editgym.models.classifiers import SmallConvNet
from editgym.models.training import (
    Recipe,
    cached_classifier,
    load_weights,
    recipe_key,
    train_classifier,
)
from editgym.tasks.seeds import checked_seeds
from editgym.tasks.unlearning.goals import (
    Forget,
    Sample,
    checked_goals,
    checked_rows,
    checked_samples,
    given_samples,
)
from editgym.tasks.unlearning.network_checks import check_outputs, check_takes
from editgym.tasks.unlearning.splits import Rows, Splits
from editgym.tasks.unlearning.task import UnlearningTask
from editgym.weights import EditableNetwork, discover_sites, find_sites

DIGITS_RECIPE = Recipe(epochs=100)
_WHOLE_SPLIT = "model"
BUNDLED = resources.files("editgym.models") / "weights"


@dataclass(frozen=True)
class Request:
    """What every image task is asked.

    Attributes:
        forget_class: The class, or set of classes, to forget; None leaves it to the data's own
            `forget`, or to `default_class`.
        goals: Several of those.
        forget_samples: How many random samples to forget instead.
        sites: Where the network may be edited; None leaves it to `discover_sites`.
        device: Where networks and data live.
        forget_indices: The samples to forget instead.
        default_class: The class that is forgotten when nothing else is said.

    Raises:
        ValueError: More than one of them says what is to be forgotten.
    """

    forget_class: Forget | None
    goals: Sequence[Forget] | None
    forget_samples: int | None
    sites: Sequence[str] | None
    device: str
    forget_indices: Sequence[Sample] | None = None
    default_class: int = 0

    def __post_init__(self) -> None:
        names = ("forget_indices", "forget_samples", "goals", "forget_class")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{given[0]}: {given[1]} is given too; say one of them, what is to be forgotten"
            )

    @property
    def by_name(self) -> bool:
        """Whether a class is asked for by its name."""
        asked = self.goals if self.goals is not None else [self.forget_class]
        return any(
            isinstance(one, str)
            for item in asked
            for one in (item if isinstance(item, list | tuple) else [item])
        )

    def forgets_samples(self, data: ImageData) -> bool:
        """Whether samples are to be forgotten, and not classes."""
        return self.forget_samples is not None or self.rows(data) is not None

    def rows(self, data: ImageData) -> tuple[int, ...] | None:
        """The rows of the training data to forget; None where classes or random samples are.

        Raises:
            ValueError: They are no rows.
        """
        if self.forget_indices is None:
            unsaid = self.forget_class is None and self.goals is None
            if data.forget is None or not unsaid or self.forget_samples is not None:
                return None
            return checked_rows("data: forget", data.forget, data)
        return checked_rows("forget_indices", self.forget_indices, data)


def bundled_file(model_seed: int) -> Path:
    """Where the weights of the digits network with this seed ship, if they do."""
    return Path(str(BUNDLED)) / f"digits-{model_seed}.safetensors"


def trained_task(
    name: str,
    data: ImageData,
    image_size: int,
    shares: tuple[float, float],
    recipe: Recipe,
    request: Request,
    networks: Sequence[int] | None,
    model_seed: int,
) -> UnlearningTask:
    """A task whose networks are trained here, and so can be retrained without what is to be
    forgotten.
    """
    seeds = checked_seeds(networks, model_seed)
    if request.forget_samples is not None and len(seeds) > 1:
        # Each network was trained on a part of its own: what one has seen another has not.
        raise ValueError(
            f"forget_samples: {request.forget_samples} random training samples of networks {seeds}"
            " are not the same samples; give one network"
        )
    if request.forget_indices is not None and len(seeds) > 1:
        raise ValueError(
            f"forget_indices: networks {seeds} were not trained on the same samples; give one"
            " network"
        )

    training = _Training(name, data, image_size, shares, recipe, tuple(seeds))
    rows = Rows.drawn(data, seeds[0], shares)
    models = [training.network(seed) for seed in seeds]
    return task_of(name, data, models, request, rows, seeds[0], training.retrain)


@dataclass(frozen=True)
class _Training:
    """How a task's networks are trained; no closure, so that tasks pickle."""

    name: str
    data: ImageData
    image_size: int
    shares: tuple[float, float]
    recipe: Recipe
    seeds: tuple[int, ...]

    def network(self, seed: int) -> nn.Module:
        """The network of a seed, trained on its whole model split."""
        if self.recipe is DIGITS_RECIPE and bundled_file(seed).is_file():
            return load_weights(self._build(), bundled_file(seed))
        return self._fit(seed, Splits.of(self.data, seed, self.shares).model, _WHOLE_SPLIT)

    def retrain(self, index: int, part: Labelled, label: str) -> nn.Module:
        """`UnlearningTask.retrain`."""
        return self._fit(self.seeds[index], part.to("cpu"), label)

    def _build(self) -> nn.Module:
        return SmallConvNet(self.image_size, self.data.n_classes)

    def _fit(self, seed: int, part: Labelled, label: str) -> nn.Module:
        validation = Splits.of(self.data, seed, self.shares).validation
        # A network that never saw a class is not to be stopped, or trained on, for its accuracy
        # there.
        validation = validation[torch.isin(validation.labels, part.labels.unique())]
        key = {
            "task": self.name,
            "recipe": recipe_key(self.recipe),
            "seed": seed,
            "part": label,
            "data": [part.content_hash(), validation.content_hash()],
            "format": 2,
        }
        description = f"{self.name} network {seed}"
        return cached_classifier(
            key,
            self._build,
            lambda: train_classifier(self._build, part, validation, self.recipe, seed, description),
        )


def drawn_rows(
    data: ImageData,
    request: Request,
    seed: int,
    *,
    stratified: bool = False,
    members: Sequence[int] | None = None,
) -> Rows:
    """The division of data whose network was trained elsewhere: samples that are to be forgotten
    are in the model split.

    Args:
        data: The images.
        request: What is asked.
        seed: Decides which rows go where.
        stratified: Whether every class is divided by itself.
        members: The rows that the network was trained on, which are then the model split; None
            where it may have been all.
    """
    pinned = request.rows(data) if members is None else None
    return Rows.drawn(data, seed, stratified=stratified, members=members, pinned=pinned or ())


def task_of(
    name: str,
    data: ImageData,
    models: Sequence[nn.Module],
    request: Request,
    rows: Rows,
    sample_seed: int,
    retrain: Callable[[int, Labelled, str], nn.Module] | None = None,
    *,
    native: tuple[int, ...] = (0,),
    members_known: bool = True,
) -> UnlearningTask:
    """The task of networks that are there.

    Args:
        name: The task's name in the catalogue.
        data: The images.
        models: The networks, of one shape.
        request: What is asked.
        rows: How the training images are divided.
        sample_seed: Draws the samples where random ones are forgotten.
        retrain: Trains a network's twin on a part of the data, as `UnlearningTask.retrain`.
        native: The networks that belong to this division, as `UnlearningTask.native`.
        members_known: Whether those were trained on the model split.

    Raises:
        ValueError: A network cannot take the images, or does not return logits of their classes;
            there is no such class or sample.
    """
    splits = Splits.at(data, rows).to(torch.device(request.device))
    networks = []
    for model in models:
        model = model.to(request.device)
        check_takes(model, splits.policy.inputs, data.source)
        chosen = (
            discover_sites(model) if request.sites is None else find_sites(model, request.sites)
        )
        networks.append(EditableNetwork(model, chosen, splits.policy.inputs[:8]))
        check_outputs(networks[-1], splits.policy.inputs, data)
    forgotten = request.rows(data)
    forget_class = request.default_class if request.forget_class is None else request.forget_class
    return UnlearningTask(
        name,
        tuple(networks),
        splits,
        data.n_classes,
        checked_goals(forget_class, request.goals, data.n_classes, data.classes),
        checked_samples(request.forget_samples, len(splits.model))
        if forgotten is None
        else given_samples(
            "data: forget" if request.forget_indices is None else "forget_indices",
            forgotten,
            rows.model.tolist(),
            data,
        ),
        sample_seed,
        retrain,
        native,
        members_known,
        data.classes if request.by_name else (),
    )
