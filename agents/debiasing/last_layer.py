"""The last layer of a classifier as a linear model on its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from agents.protocol import Unsupported
from editgym.data.images import Labelled
from editgym.tasks.debiasing import LabelledPair
from editgym.weights import EditableNetwork

C = TypeVar("C")
_BATCH = 1_024


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
        Unsupported: The logits are not those of a last `nn.Linear` with a bias and two outputs.
    """

    def __init__(self, network: EditableNetwork, example: Tensor) -> None:
        linear = [
            (name, module)
            for name, module in network.base.named_modules()
            if isinstance(module, nn.Linear)
        ]
        if not linear or linear[-1][1].bias is None:
            raise Unsupported(
                f"{type(network.base).__name__} does not end in a linear layer with a bias"
            )
        self.site, self._module = linear[-1]
        self._base = network.base
        self.head = Head(self._module.weight.detach(), self._module.bias.detach())
        logits = network.logits(example)
        seen = self.head.logits(self.features(Labelled(example, example.new_zeros(len(example)))).x)
        if seen.shape != logits.shape or not torch.allclose(seen, logits, atol=1e-4):
            raise Unsupported(
                f"{self.site}, the last linear layer of {type(network.base).__name__}, does not"
                " give its two logits"
            )

    @torch.no_grad()
    def features(self, data: Labelled) -> Features:
        """What the layer sees of some data."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])

        handle = self._module.register_forward_pre_hook(keep)
        try:
            for part in data.inputs.split(_BATCH):
                self._base(part)
        finally:
            handle.remove()
        return Features(torch.cat(seen), data.labels)

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


def best_within(
    before: Point, candidates: Iterable[C], measure: Callable[[C], Point], tolerance: float
) -> C | None:
    """The candidate with the largest unbiased accuracy of those that lose at most `tolerance` of
    general accuracy.

    Args:
        before: Of the unedited network.
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
