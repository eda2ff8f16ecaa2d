"""An unlearning algorithm of one's own: what changes the model in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from agents.configured import Settings, setting
from agents.unlearning.agent import UnlearningAlgorithm
from agents.unlearning.descent import Sets
from editgym.checks import above


@dataclass(frozen=True, kw_only=True)
class PruneSettings(Settings):
    """What `PruneForgotten` takes."""

    threshold: float = setting(0.5, above(0))


class PruneForgotten(UnlearningAlgorithm):
    """Sets the last layer's weights to zero that speak for a forgotten class.

    Args:
        threshold: Weights above so many standard deviations are set to zero; 0.5 by default.
    """

    name = "prune_forgotten"
    settings_type: ClassVar[type[Settings]] = PruneSettings
    settings: PruneSettings

    @torch.no_grad()
    def forget(self, model: nn.Module, sets: Sets) -> None:
        """Prune `model` in place."""
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        for label in sets.forget.labels.unique():
            row = last.weight[label]
            row[row > self.settings.threshold * row.std()] = 0
