"""The oracle of one's own: a function that trains a network without what is to be forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from editgym.data.images import Labelled
from editgym.imports import imported
from editgym.models.training import cached_classifier
from editgym.tasks.unlearning.own_networks import code

EXAMPLE = "package.module:function"


def own_oracle(
    path: str,
    model: str,
    model_kwargs: Mapping[str, Any],
    build: Callable[[], nn.Module],
    seed: int,
) -> Callable[[int, Labelled, str], nn.Module]:
    """`UnlearningTask.retrain` by a function of one's own.

    The function is called as `function(network, images, labels)`: an untrained network of the
    task's kind, in training mode, the images to train it on, as the network takes them, and their
    labels; both on the task's device. It returns the trained network. What it draws from torch's
    generator is the same every time. A network is trained once and kept in the cache of networks;
    another file of the function or of the model, or other images, train it anew.

    Args:
        path: The function's import path, `package.module:function`.
        model: The import path of what makes the network.
        model_kwargs: Arguments of `model`.
        build: Makes an untrained network.
        seed: The network of index i is initialised with seed + i.

    Raises:
        ValueError: The path leads to no function; or, when it is called, the function returns
            something else than such a network with finite weights.
    """
    function = imported(path, "retrain", EXAMPLE)
    if not callable(function):
        raise ValueError(
            f"retrain: {path!r} is a {type(function).__name__}, and must be a function of a"
            " network, images and labels that returns the trained network"
        )

    return _Oracle(path, model, dict(model_kwargs), build, seed, function)


@dataclass(frozen=True)
class _Oracle:
    """`UnlearningTask.retrain`; no closure, so that tasks pickle."""

    path: str
    model: str
    model_kwargs: Mapping[str, Any]
    build: Callable[[], nn.Module]
    seed: int
    function: Callable[..., Any]

    def __call__(self, index: int, part: Labelled, label: str) -> nn.Module:
        key = {
            "task": "unlearning/custom",
            "retrain": [self.path, code(self.path)],
            "model": [self.model, dict(self.model_kwargs), code(self.model)],
            "seed": self.seed + index,
            "part": part.content_hash(),
            "format": 1,
        }
        return cached_classifier(key, self.build, lambda: self._trained(index, part))

    def _trained(self, index: int, part: Labelled) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed + index)
            network = self.build().requires_grad_(True).train().to(part.labels.device)
            found = self.function(network, part.inputs, part.labels)
        return _checked(self.path, found, self.build())


def _checked(path: str, found: object, expected: nn.Module) -> nn.Module:
    """What the function returned, if it is a trained network of the task's kind."""
    if not isinstance(found, nn.Module):
        raise ValueError(
            f"retrain: {path!r} returned a {type(found).__name__}, and must return the trained"
            " network, an nn.Module"
        )
    shapes, right = (
        {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for network in (found, expected)
    )
    if shapes != right:
        other = sorted(set(shapes.items()) ^ set(right.items()))[0][0]
        raise ValueError(
            f"retrain: {path!r} returned a network whose tensor {other!r} is not that of model=:"
            f" {shapes.get(other)} beside {right.get(other)}"
        )
    for name, tensor in found.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"retrain: {path!r} returned a network whose tensor {name!r} is not finite: its"
                " training diverged"
            )
    return found.eval()
