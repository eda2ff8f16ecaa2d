"""LEACE: erase a concept from the last features of a classifier, folded into its last layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from agents.configured import Settings, setting
from agents.debiasing.episode import DebiasingAgent, replace_head, start
from agents.debiasing.last_layer import Head, HeadOfNetwork
from agents.episodes import steps_of
from agents.protocol import Unsupported
from editgym.checks import one_of
from editgym.envs.protocol import open_world
from editgym.metrics.fairness import memberships
from editgym.weights import DenseUpdate, EditJournal, Mask, Operator, SiteEdit

_ROUNDING = 1e-4


class Erasure(NamedTuple):
    """The map x -> x − matrix · (x − mean) after which no linear predictor knows more of the
    concept than its mean.

    Attributes:
        matrix: Σ^{1/2} P Σ^{-1/2}, (d, d).
        mean: μ, (d,).
    """

    matrix: Tensor
    mean: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Features (n, d) without the concept."""
        return x - (x - self.mean) @ self.matrix.mT

    def folded(self, head: Head) -> Head:
        """The last layer that gives for x what `head` gives for the features without the
        concept.
        """
        lost = head.weight @ self.matrix
        return Head(head.weight - lost, head.bias + lost @ self.mean)


@dataclass(frozen=True, kw_only=True)
class LeaceSettings(Settings):
    """The settings of `Leace`, which says what they are."""

    projected: bool = setting(False, one_of(False, True))


class Leace(DebiasingAgent):
    """LEACE: erase from the last features what is linear in a concept, as little as possible
    (Belrose et al. 2023).

    The concept is how toxic the network finds a template's identity, its mean margin over the
    identity's templates, which have both labels equally often. Erasing the identities themselves,
    one by one, would take all of 16 features. Erasure and next layer are one linear map, so the
    edit is of the last layer's weight and bias. Nothing is chosen.

    Args:
        projected: Whether to keep the bias and go only as far towards the new weight as the world's
            box allows.
    """

    name = "leace"
    settings_type: ClassVar[type[Settings]] = LeaceSettings
    settings: LeaceSettings

    def edit(self, env: gym.Env) -> EditJournal:
        """Fold the erasure into the last layer of the network of a fresh episode.

        Raises:
            Unsupported: `projected`, and the last layer is no site of the environment.
        """
        task, network = start(env)
        own = HeadOfNetwork(network, task.pool.inputs[:8])
        _, templates = own.pair(task.labelled("policy"))
        concept = leaning(own.head, templates.x, task.splits.policy.unbiased.identities)
        folded = erasure(templates.x, concept).folded(own.head)
        if not self.settings.projected:
            return replace_head(env, own, folded)
        if own.site not in [site.name for site in network.sites]:
            raise Unsupported(f"leace: {own.site}, the last layer, is no site of this environment")
        world = open_world(env)
        operator = world.operator
        for step in range(steps_of(env)):
            (weight,) = [
                w
                for site, w in zip(network.sites, network.weights, strict=True)
                if site.name == own.site
            ]
            network.apply(
                SiteEdit(own.site, operator, towards(operator, weight, folded.weight), step)
            )
        return network.journal


def erasure(x: Tensor, concept: Tensor) -> Erasure:
    """LEACE (Belrose et al. 2023, theorem 4.3) by the samples' own moments.

    P projects orthogonally on the columns of Σ^{-1/2} Σ_xz, with the pseudo-inverse where Σ is
    singular.

    Args:
        x: Features, (n, d).
        concept: z, (n, k).
    """
    x64, z = x.double(), concept.double()
    mean = x64.mean(0)
    centred = x64 - mean
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(x))
    kept = values > values.max() * len(values) * torch.finfo(x.dtype).eps
    root = torch.where(kept, values, 0).sqrt()
    inverse = torch.where(kept, values.clamp_min(1e-300).rsqrt(), 0)
    whitened = (vectors * inverse) @ vectors.mT @ (centred.mT @ (z - z.mean(0)) / len(x))  # (d, k)
    u, sigma, _ = torch.linalg.svd(whitened, full_matrices=False)
    # The whitened covariance is at most the concept's own spread; far below that is rounding.
    basis = u[:, sigma > _ROUNDING * z.std(0, correction=0).norm()]
    projection = basis @ basis.mT
    matrix = (vectors * root) @ vectors.mT @ projection @ (vectors * inverse) @ vectors.mT
    return Erasure(matrix.to(x), mean.to(x))


def leaning(head: Head, x: Tensor, identities: Sequence[str | tuple[str, ...]]) -> Tensor:
    """Mean margin towards toxic over all texts of a text's identity, (n, 1): of several identities
    the mean, of none that over all texts.
    """
    logits = head.logits(x)
    margin = logits[:, 1] - logits[:, 0]
    about = np.array([own for _, own in memberships(identities)], bool).reshape(-1, len(margin))
    identity, row = (index.to(x.device) for index in torch.from_numpy(about).nonzero(as_tuple=True))
    mean = margin.new_zeros(len(about)).index_add(0, identity, margin[row])
    mean = mean / torch.bincount(identity, minlength=len(about))
    total = torch.zeros_like(margin).index_add(0, row, mean[identity])
    count = torch.bincount(row, minlength=len(margin))
    return torch.where(count > 0, total / count.clamp_min(1), margin.mean()).unsqueeze(1)


def towards(operator: Operator, weight: Tensor, target: Tensor) -> DenseUpdate:
    """The update D, in the operator's box, that brings a weight matrix nearest to another."""
    if isinstance(operator, Mask):
        ratio = torch.where(weight == 0, 1.0, target / torch.where(weight == 0, 1.0, weight))
        return DenseUpdate(ratio.clamp(0, 1) - 1, bound=1.0)
    return DenseUpdate(((target - weight) / operator.limit).clamp(-1, 1), bound=1.0)
