"""Can the forgotten classes still be told from the penultimate features? For K candidates at once,
as a reward term.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.models.heads import last_linear
from editgym.tasks.protocol import Task
from editgym.weights import EditableNetwork

# Shrinks the within-class covariance of standardised features towards the identity.
_RIDGE = 1e-3
# A Gaussian classifier's posterior is 0 or 1 in so many dimensions; a softer one still has a slope
# there.
_SHARPNESS = 0.3


class FeatureProbe:
    """P: the mean posterior of the right class for forgotten samples, by linear discriminant
    analysis of the features.

    The classes are Gaussians with equal priors and one covariance, fitted to the classes that the
    reward data have samples of, as each candidate sees them. That is a linear probe in closed form:
    the one of the reports (`probe_accuracy`), a logistic regression fitted by iteration, would cost
    more than all else. A network may have no output for a class and yet keep it in its features; P
    is then near 1.

    Args:
        task: An unlearning task of classes.

    Raises:
        ValueError: What is forgotten are no classes; or a network does not end in a linear layer,
            or it is edited.
    """

    def __init__(self, task: Task) -> None:
        if not names_classes(task):
            raise ValueError(
                "probe_weight: there is no class to probe for where samples are forgotten, or where"
                f" the goals of a task, such as {task.name}, name no classes; leave it 0"
            )
        self._networks = [_headless(network, task.pool.inputs[:8]) for network in task.networks]
        self._activations: dict[int, tuple[Tensor, ...]] = {}
        self._inputs, labels = task.pool.inputs, task.pool.labels
        self._labels = labels
        self._one_hot = F.one_hot(labels, len(task.goals[0].features)).float()
        self._forgotten = torch.stack(
            [goal.features.to(labels.device)[labels] for goal in task.goals]
        )  # (goals, n)

    def __call__(self, index: int, weights: Sequence[Tensor], goals: Tensor) -> Tensor:
        """P of candidates on one network, (k,).

        Args:
            index: The network.
            weights: Matrices at the sites, (k, out, in) each.
            goals: (k,), which goal each candidate has.
        """
        if index not in self._activations:
            self._activations[index] = self._networks[index].activations(self._inputs)

        def posterior(features: Tensor, window: slice) -> Tensor:
            forgotten = self._forgotten[goals[window]]
            return (self._posteriors(features.float()) * forgotten).sum(1) / forgotten.sum(1)

        return self._networks[index].map_candidates(posterior, weights, self._activations[index])

    def _posteriors(self, features: Tensor) -> Tensor:
        """(k, n, d) -> the posterior of every sample's own class, (k, n)."""
        centred = features - features.mean(1, keepdim=True)
        scale = centred.square().mean(1, keepdim=True).sqrt()
        centred = centred / (scale + 1e-6 * scale.mean(2, keepdim=True) + 1e-12)
        samples = self._one_hot.sum(0)  # of every class
        sums = self._one_hot.T @ centred
        means = sums / samples.clamp(min=1).unsqueeze(1)  # (k, classes, d)
        residual = centred - self._one_hot @ means
        within = residual.mT @ residual / len(self._labels)
        slopes = torch.linalg.solve(
            within + _RIDGE * torch.eye(within.shape[-1], device=within.device), means.mT
        )
        scores = centred @ slopes - 0.5 * (means.mT * slopes).sum(1, keepdim=True)
        # A class without samples is none to choose from.
        scores = scores.masked_fill(samples == 0, -torch.inf)
        own = self._labels.expand(scores.shape[:2]).unsqueeze(-1)
        return (_SHARPNESS * scores).softmax(-1).gather(-1, own).squeeze(-1)


def names_classes(task: Task) -> bool:
    """Whether a task's goals are classes, one-hot, and its labels are classes too."""
    labels = task.pool.labels
    return labels.dim() == 1 and all(
        bool(goal.features.any()) and int(labels.max()) < len(goal.features) for goal in task.goals
    )


def _headless(network: EditableNetwork, example: Tensor) -> EditableNetwork:
    """The same network up to its penultimate features, with the same sites."""
    model = copy.deepcopy(network.base)
    head = last_linear(model, example)
    if not head or head in [site.name for site in network.sites]:
        raise ValueError(
            "probe_weight: the features before the last linear layer are probed, and this one,"
            f" {head!r}, is missing or is itself edited; leave it 0, or edit other sites"
        )
    parent, _, name = head.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Identity())
    return EditableNetwork(model, network.sites, example)
