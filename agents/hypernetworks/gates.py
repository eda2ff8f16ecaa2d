"""HiEdit's gates: which sites are edited in a step, what teaches that, and the policy of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.policy import HypernetworkPolicy
from agents.hypernetworks.settings import Learning
from agents.hypernetworks.stream import EditStream
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit
from editgym.weights.language.capture import Capture

Gate = Literal["straight_through", "sampled", "static", "random", "all"]
_ENCODING, _EMBEDDING, _HIDDEN = 32, 8, 64
_SAMPLES = 4


class SiteScores(nn.Module):
    """One number per site: how much it is worth editing for this batch.

    Every site's standardised keys and gradients are encoded token by token, by one layer per shape
    of site, and averaged; the score reads a site's own encoding, the mean of all, and an embedding
    of the site.

    Args:
        shapes: (out, in) of every site.
        seed: Seed of the first weights.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoders = nn.ModuleDict(
                {
                    f"{rows}x{columns}": nn.Linear(rows + columns, _ENCODING)
                    for rows, columns in dict.fromkeys(shapes)
                }
            )
            self.embeddings = nn.Parameter(0.1 * torch.randn(len(shapes), _EMBEDDING))
            score = nn.Linear(_HIDDEN, 1)
            self.head = nn.Sequential(
                nn.Linear(2 * _ENCODING + _EMBEDDING, _HIDDEN), nn.ReLU(), score
            )
        self._names = [f"{rows}x{columns}" for rows, columns in shapes]
        nn.init.zeros_(score.weight)  # at first no site is worth more than another
        nn.init.zeros_(score.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Scores (sites,) of features (n, in + out) per site."""
        encoded = torch.stack(
            [
                torch.relu(self.encoders[name](x)).mean(0)
                for name, x in zip(self._names, features, strict=True)
            ]
        )  # (sites, encoding)
        context = encoded.mean(0, keepdim=True).expand_as(encoded)
        return self.head(torch.cat([encoded, context, self.embeddings], dim=1))[:, 0]


class StaticScores(nn.Module):
    """Scores that are the same for every batch.

    Args:
        sites: How many sites there are.
    """

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(sites))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Scores (sites,), whatever the features."""
        return self.scores + 0.0


class HiEditPolicy(HypernetworkPolicy):
    """A hypernetwork whose updates reach only the sites that a gate chooses.

    Args:
        network: The hypernetwork.
        passes: How often a batch is looked at: after the first time with the update so far in
            effect, to correct it. All passes edit the same sites.
        gate: How sites are chosen (`HiEdit`).
        count: Sites per step.
        adaptive: Whether `count` is only the most.
        site_cost: What a site costs in reward, where the gate is adaptive.
        gate_learning_rate: Adam's learning rate for the gate.
        seed: Seed of the gate's weights and of what it draws.
        calls_per_look: Rewards that one look computes.
    """

    def __init__(
        self,
        network: Hypernetwork,
        passes: int,
        gate: Gate,
        count: int,
        adaptive: bool,
        site_cost: float,
        gate_learning_rate: float,
        seed: int,
        calls_per_look: int = 0,
    ) -> None:
        super().__init__(network, passes, calls_per_look)
        self.gate, self.count, self.adaptive, self.site_cost = gate, count, adaptive, site_cost
        self._gate_learning_rate = gate_learning_rate
        sites = len(network.shapes)
        self.scores: nn.Module | None = None
        if gate in ("straight_through", "sampled"):
            self.scores = SiteScores(network.shapes, seed)
        elif gate == "static":
            self.scores = StaticScores(sites)
        self._generator = torch.Generator().manual_seed(seed)

    def groups(self, settings: Learning) -> list[dict[str, Any]]:
        """Adam's groups of the hypernetwork and of the gate."""
        groups = super().groups(settings)
        if self.scores is not None:
            groups.append(
                {"params": list(self.scores.parameters()), "lr": self._gate_learning_rate}
            )
        return groups

    @property
    def calls_per_step(self) -> int:
        """The rewards of a hypernetwork's step, and one for every subset that is tried."""
        return super().calls_per_step + (_SAMPLES if self.gate in ("sampled", "static") else 0)

    def losses(self, process: EditStream) -> Tensor:
        """Make one step with the chosen sites, and return −r and what teaches the gate."""
        capture = self._observed(process)
        if self.gate in ("sampled", "static"):
            return self._sampled_losses(process, capture)
        mask, cost = self._gate(capture, explore=True)
        updates = self._gated(process, self._first_look(capture), mask)
        return -process.differentiable_step(updates).reward + cost

    @torch.no_grad()
    def entries(self, process: EditStream) -> list[Entry]:
        """One low-rank shift per chosen site."""
        capture = self._observed(process)
        mask, _ = self._gate(capture, explore=False)
        updates = self._gated(process, self._first_look(capture), mask)
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update, chosen in zip(process.sites, updates, mask.tolist(), strict=True)
            if chosen
        ]

    def statistics(self) -> dict[str, Any]:
        """The network's statistics, and the state of what is drawn."""
        return super().statistics() | {"generator": self._generator.get_state()}

    def load_statistics(self, state: dict[str, Any]) -> None:
        """Take statistics that `statistics` gave."""
        super().load_statistics(state)
        self._generator.set_state(state["generator"].cpu())

    # --- the gate ---------------------------------------------------------------------------------

    def _gate(self, capture: Capture, explore: bool) -> tuple[Tensor, Tensor]:
        """Which sites are edited, (sites,) of 0 and 1, and what they cost; differentiable for
        learned gates.
        """
        sites = len(self.network.shapes)
        nothing = self.network.steps.new_zeros(())
        if self.gate == "all":
            return self.network.steps.new_ones(sites), nothing
        if self.gate == "random":
            chosen = torch.randperm(sites, generator=self._generator)[: self.count].to(
                self.network.steps.device
            )
            return torch.zeros_like(self.network.steps).index_fill(0, chosen, 1.0), nothing
        scores = self._scored(capture)
        # Logistic noise: a site is above 0 with the probability that its sigmoid is.
        noise = self._logistic(sites) if self.adaptive else self._gumbel(sites)
        noisy = scores.detach() + noise if explore else scores.detach()
        hard, soft = self._best(noisy), scores.sigmoid()
        # Straight through: forward the choice; backward every site's own share of the reward,
        # chosen or not.
        return hard + soft - soft.detach(), (
            self.site_cost * soft.sum() if self.adaptive else nothing
        )

    def _scored(self, capture: Capture) -> Tensor:
        assert self.scores is not None
        scores: Tensor = self.scores(self.network.features(capture.keys, capture.gradients))
        return scores

    def _best(self, scores: Tensor) -> Tensor:
        """The sites with the largest scores as 1, the others as 0; adaptive gates leave out those
        below 0.
        """
        order = scores.argsort(descending=True)
        mask = torch.zeros_like(scores).index_fill(0, order[: self.count], 1.0)
        if self.adaptive:
            mask = mask * (scores >= 0)
            mask[order[0]] = 1.0
        return mask

    def _sampled_losses(self, process: EditStream, capture: Capture) -> Tensor:
        """REINFORCE on subsets drawn without replacement, with the mean of the others' rewards as
        baseline.

        The candidates are scored on one state in one pass; the first is applied and teaches the
        hypernetwork.
        """
        scores = self._scored(capture)
        orders = torch.stack(
            [
                (scores.detach() + self._gumbel(len(scores))).argsort(descending=True)[: self.count]
                for _ in range(_SAMPLES)
            ]
        )  # (samples, count)
        masks = torch.zeros(_SAMPLES, len(scores), device=scores.device).scatter(1, orders, 1.0)
        first = self._first_look(capture)
        with torch.no_grad():
            tried = [self._gated(process, first, mask) for mask in masks]
            stacked = [
                LowRankFactors(torch.stack([u.a for u in site]), torch.stack([u.b for u in site]))
                for site in zip(*tried, strict=True)
            ]
            rewards = process.candidate_rewards(stacked)
        advantage = (
            (rewards - rewards.mean()) * _SAMPLES / (_SAMPLES - 1)
        )  # against the mean of the others
        advantage = advantage / rewards.std().clamp(min=1e-6)
        outcome = process.differentiable_step(self._gated(process, first, masks[0]))
        return -outcome.reward - (advantage * log_probability(scores, orders)).mean()

    def _gumbel(self, sites: int) -> Tensor:
        return -torch.log(-torch.log(self._uniform(sites))).to(self.network.steps.device)

    def _logistic(self, sites: int) -> Tensor:
        return self._uniform(sites).logit().to(self.network.steps.device)

    def _uniform(self, sites: int) -> Tensor:
        return torch.rand(sites, generator=self._generator).clamp(1e-6, 1 - 1e-6)

    # --- updates ----------------------------------------------------------------------------------

    def _observed(self, process: EditStream) -> Capture:
        capture = process.capture
        self.network.observe(capture.new.keys, capture.new.gradients)
        return capture

    def _first_look(self, capture: Capture) -> list[LowRankFactors]:
        """The hypernetwork's updates at all sites, whichever are chosen."""
        updates: list[LowRankFactors] = self.network(capture.keys, capture.gradients)
        return updates

    def _gated(
        self, process: EditStream, first: Sequence[LowRankFactors], mask: Tensor
    ) -> list[LowRankFactors]:
        """The updates of the first look, and of those that follow, at the sites of `mask`; 0
        elsewhere.
        """
        total = _masked(first, mask)
        for _ in range(self.passes - 1):
            again = process.captured_after(total)
            more = _masked(self.network(again.keys, again.gradients), mask)
            total = [update.plus(other) for update, other in zip(total, more, strict=True)]
        return total


def _masked(updates: Sequence[LowRankFactors], mask: Tensor) -> list[LowRankFactors]:
    return [LowRankFactors(update.a * mask[site], update.b) for site, update in enumerate(updates)]


def log_probability(scores: Tensor, orders: Tensor) -> Tensor:
    """Log-probability of drawing sites in these orders without replacement (Plackett–Luce),
    (samples,).

    Args:
        scores: One score per site, (sites,).
        orders: Sites in the order in which they were drawn, (samples, count).
    """
    taken = nn.functional.one_hot(orders, len(scores))  # (samples, count, sites)
    gone = (taken.cumsum(1) - taken).bool()
    # Not the sum of all less those that are gone: where the gate is sure, nothing would be left of
    # the others.
    left = scores.expand(gone.shape).masked_fill(gone, -torch.inf).logsumexp(-1)
    return (scores[orders] - left).sum(1)
