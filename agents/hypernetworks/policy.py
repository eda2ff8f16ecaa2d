"""Policies that learn from sequences of edits: their contract, and the policy of hypernetworks."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.settings import Learning
from agents.hypernetworks.stream import EditStream
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit


class SequencePolicy(nn.Module, ABC):
    """What learns from sequences: it edits with a graph while it learns, and without one when it is
    judged.
    """

    @property
    def calls_per_step(self) -> int:
        """Rewards that one step of learning computes."""
        return 1

    @abstractmethod
    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """Adam's parameter groups, with their learning rates."""

    @abstractmethod
    def losses(self, process: EditStream) -> Tensor:
        """Make one step of an open stream, and return what should become smaller, a scalar with a
        graph.
        """

    @abstractmethod
    def entries(self, process: EditStream) -> list[Entry]:
        """What the policy applies for the stream's batch; running statistics take the new requests
        in.
        """

    @abstractmethod
    def statistics(self) -> dict[str, Any]:
        """What changes while the policy edits, as tensors and plain values; not its parameters."""

    @abstractmethod
    def load_statistics(self, state: dict[str, Any]) -> None:
        """Take statistics that `statistics` gave."""

    def snapshot(self) -> dict[str, Any]:
        """Parameters and statistics, copied."""
        return copy.deepcopy({"parameters": self.state_dict(), "statistics": self.statistics()})

    def restore(self, state: dict[str, Any]) -> None:
        """Take a state that `snapshot` gave."""
        self.load_state_dict(state["parameters"])
        self.load_statistics(copy.deepcopy(state["statistics"]))


class HypernetworkPolicy(SequencePolicy):
    """Edits with the updates of a hypernetwork, and learns by the reward's gradient.

    Args:
        network: The hypernetwork.
        passes: How often a batch is looked at: after the first time with the update so far in
            effect, to correct it.
        calls_per_look: Rewards that one look computes.
    """

    def __init__(self, network: Hypernetwork, passes: int, calls_per_look: int = 0) -> None:
        super().__init__()
        self.network = network
        self.passes = passes
        self.calls_per_look = calls_per_look

    @property
    def calls_per_step(self) -> int:
        """One reward for the edit, and those of the looks."""
        return 1 + self.passes * self.calls_per_look

    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """Adam's groups: h_φ, and the step sizes and ridges."""
        rate = settings.step_learning_rate
        return [
            {"params": list(self.network.networks.parameters()), "lr": settings.learning_rate},
            {
                "params": [self.network.steps, self.network.log_ridges],
                "lr": 10 * self.network.first_step if rate is None else rate,
            },
        ]

    def losses(self, process: EditStream) -> Tensor:
        """Make one step, and return −r."""
        return -process.differentiable_step(self.updates(process)).reward

    @torch.no_grad()
    def entries(self, process: EditStream) -> list[Entry]:
        """One low-rank shift per site."""
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, self.updates(process), strict=True)
        ]

    def updates(self, process: EditStream) -> list[LowRankFactors]:
        """One update per site; the running statistics take the new requests in first.

        The graph goes through the network of every pass, not through the keys and gradients that a
        pass is given.
        """
        capture = process.capture
        self.network.observe(capture.new.keys, capture.new.gradients)
        total: list[LowRankFactors] = self.network(capture.keys, capture.gradients)
        for _ in range(self.passes - 1):
            capture = process.captured_after(total)
            more = self.network(capture.keys, capture.gradients)
            total = [update.plus(other) for update, other in zip(total, more, strict=True)]
        return total

    def statistics(self) -> dict[str, Any]:
        """The network's statistics."""
        return self.network.statistics()

    def load_statistics(self, state: dict[str, Any]) -> None:
        """Take statistics that `statistics` gave."""
        self.network.load_statistics(state)
