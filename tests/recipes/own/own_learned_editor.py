"""A learned editor of one's own: a policy, and the agent that makes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agents.hypernetworks.editor import LearnedEditor
from agents.hypernetworks.policy import SequencePolicy
from agents.hypernetworks.saved import Sites
from agents.hypernetworks.settings import Learning
from agents.hypernetworks.stream import EditStream
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


class LearnedRates(SequencePolicy):
    """Gradient descent whose rate at every site is learned through the reward.

    Args:
        sites: How many sites there are.
    """

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.log_rates = nn.Parameter(torch.full((sites,), -4.0))

    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """Adam's one group: the rates."""
        return [{"params": [self.log_rates], "lr": settings.step_learning_rate}]

    def losses(self, process: EditStream) -> Tensor:
        """Make one step, and return minus its reward."""
        return -process.differentiable_step(self.updates(process)).reward

    @torch.no_grad()
    def entries(self, process: EditStream) -> list[Entry]:
        """One shift per site."""
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, self.updates(process), strict=True)
        ]

    def updates(self, process: EditStream) -> list[LowRankFactors]:
        """ΔW = −exp(log_rate) Gᵀ K of every site."""
        capture = process.capture
        return [
            LowRankFactors(-rate * gradients.mT, keys)
            for rate, keys, gradients in zip(
                self.log_rates.exp(), capture.keys, capture.gradients, strict=True
            )
        ]

    def statistics(self) -> dict[str, Any]:
        """Nothing changes while it edits."""
        return {}

    def load_statistics(self, state: dict[str, Any]) -> None:
        """Nothing is to be taken."""


class RateEditor(LearnedEditor):
    """Gradient descent with learned rates; the settings are those of `Learning`."""

    name = "learned_rates"
    settings_type = Learning

    def make_policy(self, process: EditStream, seed: int) -> SequencePolicy:
        """The untrained policy."""
        return LearnedRates(len(process.sites))

    def restored_policy(self, sites: Sites) -> SequencePolicy:
        """A policy of the right shape."""
        return LearnedRates(len(sites))
