"""The parts that image data are divided into."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from editgym.data.images import ImageData, Labelled


@dataclass(frozen=True)
class Splits:
    """The official training data in three parts, and the official test data.

    The network is trained on `model`, rewards come from `policy`, agents that need to choose a
    setting do so on `validation`, and reports use `test`. The paper (Malik 2026) divides 70/15/15.
    """

    model: Labelled
    policy: Labelled
    validation: Labelled
    test: Labelled

    @classmethod
    def of(cls, data: ImageData, seed: int, shares: tuple[float, float] = (0.70, 0.15)) -> Splits:
        """Divide the training data at random, `shares` to model and policy; `test` stays as it
        is.
        """
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data.train), generator=generator)
        model, policy = round(shares[0] * len(order)), round(sum(shares) * len(order))
        return cls(
            data.train[order[:model]],
            data.train[order[model:policy]],
            data.train[order[policy:]],
            data.test,
        )

    def to(self, device: torch.device) -> Splits:
        """The same splits on another device."""
        return Splits(
            *(part.to(device) for part in (self.model, self.policy, self.validation, self.test))
        )
