"""Steps of descent whose length is a share of the weights' own, whatever the loss and the scale of
the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_LEAST = 0.1


class RelativeSGD(torch.optim.Optimizer):
    """Normalised gradient descent with momentum, layer by layer.

    v ← μ·v + (1 − μ)·g/‖g‖ and w ← w − share·‖w₀‖·v, with w₀ the weights before the first step: no
    parameter moves by more than `share` of its length in a step (the trust ratio of You, Gitman and
    Ginsburg 2017, "Large batch training of convolutional networks", arXiv 1708.03888, eq. 6, with a
    fixed length). A parameter that is shorter than a tenth of what its size would make it among the
    others, such as a bias that is 0, counts as that long.

    Args:
        parameters: What is moved.
        share: The longest step of a parameter, relative to its length.
        momentum: μ, in [0, 1).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], share: float, momentum: float = 0.9
    ) -> None:
        super().__init__(list(parameters), {})
        self._parameters: list[nn.Parameter] = self.param_groups[0]["params"]
        squares = sum(float(p.detach().square().sum()) for p in self._parameters)
        usual = (squares / max(1, sum(p.numel() for p in self._parameters))) ** 0.5
        self._lengths = [
            share * max(float(p.detach().norm()), _LEAST * usual * p.numel() ** 0.5)
            for p in self._parameters
        ]
        self._momentum = momentum
        self._moved = [torch.zeros_like(p) for p in self._parameters]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter against its gradient; one whose gradient is 0 goes on by its
        momentum alone.
        """
        for parameter, moved, length in zip(
            self._parameters, self._moved, self._lengths, strict=True
        ):
            moved.mul_(self._momentum)
            if parameter.grad is not None:
                norm = parameter.grad.norm()
                direction = torch.where(norm > 0, parameter.grad / norm, 0.0)
                moved.add_(direction, alpha=1 - self._momentum)
            parameter.sub_(moved, alpha=length)
