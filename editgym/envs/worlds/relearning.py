"""Do the forgotten classes come back from a few of their images? For K candidates, as a reward
term.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from editgym.data.images import Labelled
from editgym.envs.worlds.probe import names_classes
from editgym.tasks.protocol import Goal, Task
from editgym.weights import EditableNetwork, full_precision
from editgym.weights.classifiers.outputs import first_names, logits_of

FEW_IMAGES = 5
# The attacker's step sizes: 0 looks at the network as it is.
RATES = (0.0, 0.001, 0.003, 0.01, 0.03)
# Margins are compared in units of their spread, so that a class is no better hidden by larger
# logits; one that is larger by this share of it counts for 73%.
SOFTNESS = 0.2
_JUDGED = 32  # samples of each reward set that tell what came back
_SETS = ("retain", "forget")


@dataclass(frozen=True)
class _Samples:
    """What an attacker has, and what tells how far the attack went."""

    few: Labelled
    judged: Labelled  # those of retain, then those of forget
    retained: int  # how many are of retain
    classes: Tensor  # (c,), the forgotten ones


class FewImageRelearning:
    """L, 0–1: how well a network's logits tell the forgotten classes after one step of SGD, of all
    its weights, on five forgotten images.

    The margin of a forgotten class is its logit less the largest of a class that is kept. With A
    the share of pairs of a forgotten and a retained sample in which the former has the larger
    margin, L is max(0, 2·A − 1) after the worst of five step sizes. The smallest is 0: then it is
    what any constant added to the logit gives back (`editgym.metrics.attacks.logit_attack`); with
    the others, also what `few_image_relearning` there does. To have a gradient, the order in a pair
    is the sigmoid of the difference, in units of a fifth of the margins' standard deviation. The
    inner step is differentiated too (Finn et al. 2017, arXiv 1703.03400, eq. 1; against tampering:
    Tamirisa et al. 2024, arXiv 2408.00761).

    The samples are fixed ones of the reward data; those that are judged are not among the five.

    Args:
        task: An unlearning task of classes.

    Raises:
        ValueError: What is forgotten are no classes, or too few samples are there to reward.
    """

    def __init__(self, task: Task) -> None:
        if not set(_SETS) <= set(task.set_names) or not names_classes(task):
            raise ValueError(
                "relearn_weight: there is no class to relearn where samples are forgotten, or where"
                f" the goals of a task, such as {task.name}, name no classes; leave it 0"
            )
        self._networks = task.networks
        self._samples = [_samples(task, goal) for goal in task.goals]

    def __call__(self, index: int, weights: Sequence[Tensor], goals: Tensor) -> Tensor:
        """L of candidates on one network, (k,), with gradients to the weights where these have any.

        Args:
            index: The network.
            weights: Matrices at the sites, (k, out, in) each.
            goals: (k,), which goal each candidate has.
        """
        network = self._networks[index]
        # One after the other: a step of all weights shares nothing between candidates.
        return torch.stack(
            [
                self._relearned(network, [own[i] for own in weights], self._samples[goal])
                for i, goal in enumerate(goals.tolist())
            ]
        )

    def _relearned(
        self, network: EditableNetwork, matrices: Sequence[Tensor], samples: _Samples
    ) -> Tensor:
        """L of one candidate, a scalar."""
        differentiable = torch.is_grad_enabled()
        with full_precision():
            with torch.enable_grad():
                weights = _all_weights(network, matrices)
                few = _logits(network, weights, samples.few.inputs)
                loss = F.cross_entropy(few, samples.few.labels)
                slopes = torch.autograd.grad(
                    loss,
                    list(weights.values()),
                    create_graph=differentiable,
                    allow_unused=True,  # a head for training alone
                )
            found = [
                _told(
                    _logits(network, _moved(weights, slopes, rate), samples.judged.inputs), samples
                )
                for rate in RATES
            ]
        return torch.stack(found).amax().clamp(min=0)


def _told(logits: Tensor, samples: _Samples) -> Tensor:
    """2·A − 1, the mean over the forgotten classes, a scalar.

    Args:
        logits: The judged samples' logits, (n, classes).
        samples: Whose they are.
    """
    kept = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    kept[samples.classes] = False
    margins = logits[:, samples.classes] - logits[:, kept].amax(1, keepdim=True)  # (n, c)
    spread = SOFTNESS * margins.std(0) + torch.finfo(margins.dtype).tiny
    others, forgotten = margins.split([samples.retained, len(margins) - samples.retained])
    own = samples.judged.labels[samples.retained :, None] == samples.classes  # (forgotten, c)
    order = ((forgotten.unsqueeze(1) - others) / spread).sigmoid().mean(1)  # (forgotten, c)
    share = (order * own).sum(0) / own.sum(0).clamp(min=1)
    there = own.any(0)
    return (2 * share - 1)[there].mean()


def _logits(network: EditableNetwork, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The network's logits with these weights in place of its own, (n, classes)."""
    return logits_of(functional_call(network.base, dict(weights), (inputs,))).float()


def _moved(
    weights: Mapping[str, Tensor], slopes: Sequence[Tensor | None], rate: float
) -> dict[str, Tensor]:
    """The weights after a step of SGD; a weight that the loss does not depend on has no slope."""
    return {
        name: weight if slope is None else weight - rate * slope
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }


def _all_weights(network: EditableNetwork, matrices: Sequence[Tensor]) -> dict[str, Tensor]:
    """Every weight of the network by name, with the matrices at the sites; each has a gradient."""
    names = first_names(network.base)
    edited = {
        names[site.parameter]: site.to_stored(matrix)
        for site, matrix in zip(network.sites, matrices, strict=True)
    }
    return {
        name: edited[name]
        if name in edited and edited[name].requires_grad
        else edited.get(name, weight).detach().requires_grad_()
        for name, weight in network.base.named_parameters()
        if weight.is_floating_point()
    }


def _samples(task: Task, goal: Goal) -> _Samples:
    retain, forget = (_shuffled(goal.members[name]) for name in _SETS)
    if len(forget) <= FEW_IMAGES:
        raise ValueError(
            f"relearn_weight: the goal {goal.label!r} has {len(forget)} forgotten samples to"
            f" reward; more than {FEW_IMAGES} are needed, which an attacker relearns from, to judge"
            " it by; leave it 0"
        )
    few, judged = forget[:FEW_IMAGES], forget[FEW_IMAGES : FEW_IMAGES + _JUDGED]
    others = retain[:_JUDGED]
    return _Samples(
        task.pool[few],
        task.pool[torch.cat([others, judged])],
        len(others),
        goal.features.nonzero().flatten().to(task.device),
    )


def _shuffled(rows: Tensor) -> Tensor:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows[order.to(rows.device)]
