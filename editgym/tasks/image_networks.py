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
from editgym.tasks.goals import Forget, checked_goals, checked_samples
from editgym.tasks.seeds import checked_seeds
from editgym.tasks.splits import Splits
from editgym.tasks.unlearning import UnlearningTask
from editgym.weights import EditableNetwork, discover_sites, find_sites

DIGITS_RECIPE = Recipe(epochs=100)
_WHOLE_SPLIT = "model"
BUNDLED = resources.files("editgym.models") / "weights"


@dataclass(frozen=True)
class Request:
    """What every image task is asked: what to forget, where the network may be edited, and on which
    device.
    """

    forget_class: Forget
    goals: Sequence[Forget] | None
    forget_samples: int | None
    sites: Sequence[str] | None
    device: str


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

    def build() -> nn.Module:
        return SmallConvNet(image_size, data.n_classes)

    def fit(seed: int, part: Labelled, label: str) -> nn.Module:
        key = {
            "task": name,
            "recipe": recipe_key(recipe),
            "seed": seed,
            "part": label,
            "n": len(part),
            "format": 1,
        }
        if (
            label != _WHOLE_SPLIT
        ):  # of several networks, the later ones are retrained on the first one's division
            key["divided_by"] = seeds[0]
        validation, description = Splits.of(data, seed, shares).validation, f"{name} network {seed}"
        # A network that never saw a class is not to be stopped, or trained on, for its accuracy
        # there.
        validation = validation[torch.isin(validation.labels, part.labels.unique())]
        return cached_classifier(
            key, build, lambda: train_classifier(build, part, validation, recipe, seed, description)
        )

    def network(seed: int) -> nn.Module:
        if recipe is DIGITS_RECIPE and bundled_file(seed).is_file():
            return load_weights(build(), bundled_file(seed))
        return fit(seed, Splits.of(data, seed, shares).model, _WHOLE_SPLIT)

    def retrain(index: int, part: Labelled, label: str) -> nn.Module:
        return fit(seeds[index], part.to("cpu"), label)

    splits = Splits.of(data, seeds[0], shares)
    return task_of(
        name, data, [network(seed) for seed in seeds], request, splits, seeds[0], retrain
    )


def task_of(
    name: str,
    data: ImageData,
    models: Sequence[nn.Module],
    request: Request,
    splits: Splits,
    sample_seed: int,
    retrain: Callable[[int, Labelled, str], nn.Module] | None = None,
) -> UnlearningTask:
    """The task of networks that are there.

    Args:
        name: The task's name in the catalogue.
        data: The images.
        models: The networks, of one shape.
        request: What is asked.
        splits: The parts of the images.
        sample_seed: Draws the samples where samples are forgotten.
        retrain: Trains a network's twin on a part of the data, as `UnlearningTask.retrain`.

    Raises:
        ValueError: A network has fewer outputs than the data have classes.
    """
    splits = splits.to(torch.device(request.device))
    networks = []
    for model in models:
        model = model.to(request.device)
        chosen = (
            discover_sites(model) if request.sites is None else find_sites(model, request.sites)
        )
        networks.append(EditableNetwork(model, chosen, splits.policy.inputs[:8]))
        outputs = networks[-1].logits(splits.policy.inputs[:1]).shape[-1]
        if outputs < data.n_classes:
            raise ValueError(
                f"data: has labels up to {data.n_classes - 1}, but {type(model).__name__} has only "
                f"{outputs} outputs"
            )
    return UnlearningTask(
        name,
        tuple(networks),
        splits,
        data.n_classes,
        checked_goals(request.forget_class, request.goals, data.n_classes),
        checked_samples(request.forget_samples, len(splits.model)),
        sample_seed,
        retrain,
    )
