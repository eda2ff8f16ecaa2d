"""The last layer of a classifier as a linear model on its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from agents.protocol import Unsupported
from editgym.data.images import Labelled
from editgym.models.heads import last_linear
from editgym.tasks.debiasing.task import LabelledPair
from editgym.weights import EditableNetwork

C = TypeVar("C")


@dataclass(frozen=True)
class Features:
    """What the last layer sees of a split.

    Attributes:
        x: (n, d).
        y: (n,) labels.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Head:
    """Logits = weight · x + bias.

    Attributes:
        weight: (2, d).
        bias: (2,).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """Features (n, d) -> logits (n, 2)."""
        return x @ self.weight.mT + self.bias

    def accuracy(self, data: Features) -> float:
        """Share of right predictions."""
        return float((self.logits(data.x).argmax(-1) == data.y).double().mean())


class HeadOfNetwork:
    """A network's last linear layer, which must give its logits.

    Attributes:
        site: Name of the layer.
        head: The layer of the unedited network.

    Args:
        network: Unedited.
        example: A few inputs, on which the logits are compared.

    Raises:
        Unsupported: The network does not end in an `nn.Linear` with a bias and two outputs.
    """

    def __init__(self, network: EditableNetwork, example: Tensor) -> None:
        site = last_linear(network.base, example)
        module = None if site is None else network.base.get_submodule(site)
        if not (isinstance(module, nn.Linear) and len(module.weight) == 2):
            module = None
        if site is None or module is None or module.bias is None:
            raise Unsupported(
                f"{type(network.base).__name__}: its last linear layer has no bias, or does not"
                " give its two logits"
            )
        self.site, self._network = site, network
        self.head = Head(module.weight.detach(), module.bias.detach())

    def features(self, data: Labelled) -> Features:
        """What the layer sees of some data."""
        return Features(self._network.inputs_to(self.site, data.inputs), data.labels)

    def pair(self, data: LabelledPair) -> tuple[Features, Features]:
        """What the layer sees of a split: general, unbiased."""
        return self.features(data.general), self.features(data.unbiased)

    def tensors(self, head: Head) -> dict[str, Tensor]:
        """Another head by the names of the network's state dict."""
        return {f"{self.site}.weight": head.weight, f"{self.site}.bias": head.bias}


@dataclass(frozen=True)
class Point:
    """What a candidate reaches on the validation split."""

    general: float
    unbiased: float


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def best_within(
    before: Point, candidates: Iterable[C], measure: Callable[[C], Point], tolerance: float
) -> C | None:
    """The candidate with the largest unbiased accuracy of those that lose at most `tolerance` of
    general accuracy.

    Args:
        before: What the unedited network reaches there.
        candidates: What there is to choose from.
        measure: What a candidate reaches on the validation split.
        tolerance: In accuracy; 0.01 is a point.

    Returns:
        The first of the best; None where none of them is better than no edit.
    """
    best, reached = None, before.unbiased
    for candidate in candidates:
        point = measure(candidate)
        if point.general >= before.general - tolerance and point.unbiased > reached:
            best, reached = candidate, point.unbiased
    return best
