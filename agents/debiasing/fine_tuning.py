"""Fine-tuning against bias: the last layer, or the matrices of the environment's sites.

Both descend on comments and templates together and choose on the validation split: see
`agents.debiasing.episode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from agents.configured import Settings, setting
from agents.debiasing.episode import (
    TOLERANCE,
    WEIGHTINGS,
    DebiasingAgent,
    best_head,
    replace_head,
    start,
)
from agents.debiasing.last_layer import Head, HeadOfNetwork, Point, all_finite, best_within
from agents.debiasing.seen import Seen
from editgym.checks import above, whole
from editgym.models.training import one_thread
from editgym.weights import EditJournal, ReplaceTensors


@dataclass(frozen=True, kw_only=True)
class LastLayerSettings(Settings):
    """The settings of `LastLayerFineTune`, which says what they are."""

    weightings: list[float] = setting([0.3, 1.0, 3.0], WEIGHTINGS)
    steps: int = setting(200, whole(1))
    learning_rate: float = setting(0.01, above(0))
    check_every: int = setting(10, whole(1))
    tolerance: float = setting(0.01, TOLERANCE)


@dataclass(frozen=True, kw_only=True)
class SiteSettings(LastLayerSettings):
    """The settings of `SiteFineTune`, which says what they are."""

    weightings: list[float] = setting([0.1, 0.3, 1.0], WEIGHTINGS)
    steps: int = setting(600, whole(1))
    learning_rate: float = setting(1e-3, above(0))


class FineTuning(DebiasingAgent):
    """Adam on all of CE(general) + weighting · CE(unbiased) at a time, on comments and templates
    together.

    It begins at the network's own weights once for every weighting; what it has after every
    `check_every` steps, and after the last one, is a candidate. A subclass says which tensors it
    moves.
    """

    settings: LastLayerSettings

    def candidates(
        self,
        own: Sequence[Tensor],
        losses: Callable[[Sequence[Tensor], tuple[float, float]], Iterable[Tensor]],
    ) -> Iterator[list[Tensor]]:
        """Tensors in place of the network's `own`.

        `losses` gives the terms of the loss of such tensors, each from a graph of its own, for the
        weights of general and unbiased.
        """
        total = self.settings.steps * len(self.settings.weightings)
        with tqdm(total=total, desc=self.name, unit="step", leave=False, mininterval=0.5) as bar:
            for weighting in self.settings.weightings:
                moved = [tensor.clone().requires_grad_() for tensor in own]
                optimizer = torch.optim.Adam(moved, lr=self.settings.learning_rate)
                for step in range(1, self.settings.steps + 1):
                    optimizer.zero_grad(set_to_none=True)
                    for term in losses(moved, (1.0, weighting)):
                        term.backward()
                    optimizer.step()
                    bar.update()
                    if step % self.settings.check_every and step < self.settings.steps:
                        continue
                    if not all_finite(moved):
                        self.warn_of_divergence(f"with weighting {weighting:g} by step {step}")
                        break
                    yield [tensor.detach().clone() for tensor in moved]


class LastLayerFineTune(FineTuning):
    """Fine-tune the last layer, weight and bias (Kirichenko et al. 2023, DFR).

    Adam descends on all of CE(general) + weighting · CE(unbiased) at a time. What it has after
    every `check_every` steps, and after the last one, is a candidate; the one with the largest
    unbiased accuracy on the validation split, within the tolerance, replaces the layer.

    Args:
        weightings: Weights of the templates' loss; Adam begins at the network's own weights once
            for each.
        steps: Steps of Adam for every weighting.
        learning_rate: Adam's learning rate.
        check_every: Steps between two candidates.
        tolerance: How much general accuracy, on the validation split, a candidate may lose; 0.01 is
            a point.
    """

    name = "last_layer_fine_tune"
    settings_type: ClassVar[type[Settings]] = LastLayerSettings

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the last layer of the network of a fresh episode."""
        task, network = start(env)
        own = HeadOfNetwork(network, task.pool.inputs[:8])
        policy = own.pair(task.labelled("policy"))

        def losses(moved: Sequence[Tensor], weights: tuple[float, float]) -> Iterator[Tensor]:
            return (
                weight * F.cross_entropy(Head(*moved).logits(part.x), part.y)
                for weight, part in zip(weights, policy, strict=True)
            )

        with one_thread():
            heads = [
                Head(*moved) for moved in self.candidates([own.head.weight, own.head.bias], losses)
            ]
        best = best_head(task, own, heads, self.settings.tolerance)
        self.note_choice(best)
        return replace_head(env, own, best)


class SiteFineTune(FineTuning):
    """Fine-tune the matrices of the environment's sites, without the box of actions.

    Whatever layers are open, and their weights alone: what an edit of them can reach. Adam descends
    on all of CE(general) + weighting · CE(unbiased) at a time. What it has after every
    `check_every` steps, and after the last one, is a candidate; the one with the largest unbiased
    accuracy on the validation split, within the tolerance, replaces the matrices.

    Args:
        weightings: Weights of the templates' loss; Adam begins at the network's own weights once
            for each.
        steps: Steps of Adam for every weighting.
        learning_rate: Adam's learning rate.
        check_every: Steps between two candidates.
        tolerance: How much general accuracy, on the validation split, a candidate may lose; 0.01 is
            a point.
    """

    name = "site_fine_tune"
    settings_type: ClassVar[type[Settings]] = SiteSettings

    def edit(self, env: gym.Env) -> EditJournal:
        """Fine-tune the sites of the network of a fresh episode."""
        task, network = start(env)
        own = [weight.unsqueeze(0) for weight in network.weights]
        policy, validation = (
            [Seen(network, part) for part in task.labelled(split)]
            for split in ("policy", "validation")
        )

        def losses(moved: Sequence[Tensor], weights: tuple[float, float]) -> Iterator[Tensor]:
            for weight, seen in zip(weights, policy, strict=True):
                for some, right in seen.pieces():
                    loss = F.cross_entropy(network.candidate_logits(moved, some)[0], right)
                    yield weight * (len(right) / len(seen)) * loss

        @torch.no_grad()
        def accuracy(moved: Sequence[Tensor], seen: Seen) -> float:
            return sum(
                int((network.candidate_logits(moved, some)[0].argmax(-1) == right).sum())
                for some, right in seen.pieces()
            ) / len(seen)

        def measure(moved: Sequence[Tensor]) -> Point:
            return Point(*(accuracy(moved, seen) for seen in validation))

        with one_thread():
            best = best_within(
                measure(own), self.candidates(own, losses), measure, self.settings.tolerance
            )
        self.note_choice(best)
        if best is not None:
            network.apply(
                ReplaceTensors(
                    {
                        site.parameter: site.to_stored(weight[0])
                        for site, weight in zip(network.sites, best, strict=True)
                    }
                )
            )
        return network.journal
