"""Unlearning by gradient steps: what the algorithms descend on, and the loop that they share.

Each function changes `model` in place, in those parameters that require gradients. Batch-norm
statistics stay as they are: the network is in evaluation mode.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.unlearning.steps import RelativeSGD
from agents.unlearning.validation import Validation
from editgym.data.images import Labelled

Loss = Callable[..., Tensor]
Masks = Mapping[str, Tensor]
_RETAIN, _FORGET, _LABELS = range(3)  # random streams


def _nobody(model: nn.Module) -> None:
    """Look at nothing."""


@dataclass(frozen=True)
class Sets:
    """The network's training data, divided by what is to be forgotten.

    Attributes:
        retain: D_r.
        forget: D_f.
        n_classes: Number of classes.
        seed: Seed of the order of the samples, and of random labels.
        validation: Scores networks on other data; None where nobody chooses by it.
        after_step: Is shown the model after every change of its weights.
    """

    retain: Labelled
    forget: Labelled
    n_classes: int
    seed: int
    validation: Validation | None = None
    after_step: Callable[[nn.Module], None] = _nobody

    def generator(self, purpose: int) -> torch.Generator:
        """A stream of its own for each purpose, so that what one draws does not move the others."""
        return torch.Generator().manual_seed(self.seed + purpose * 1_000_003)

    def epochs(
        self, part: Labelled, count: int | None, size: int, purpose: int
    ) -> Iterator[tuple[Labelled]]:
        """Batches of `count` shuffled passes over `part`; None goes on for ever."""
        generator, device = self.generator(purpose), part.labels.device
        for _ in itertools.count() if count is None else range(count):
            for rows in torch.randperm(len(part), generator=generator).split(size):
                yield (part[rows.to(device)],)

    def pairs(self, forget: Labelled, count: int, size: int) -> Iterator[tuple[Labelled, Labelled]]:
        """`count` passes over D_r, each batch with one of `forget`, which is gone through again and
        again.
        """
        retained = self.epochs(self.retain, count, size, _RETAIN)
        for (kept,), (gone,) in zip(
            retained, self.epochs(forget, None, size, _FORGET), strict=False
        ):
            yield kept, gone

    def mislabelled(self) -> Labelled:
        """D_f with a random wrong class for every sample, the same one in every pass."""
        offsets = torch.randint(
            1, self.n_classes, (len(self.forget),), generator=self.generator(_LABELS)
        )
        return Labelled(
            self.forget.inputs,
            (self.forget.labels + offsets.to(self.forget.labels)) % self.n_classes,
        )


def fine_tune(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """min CE(D_r), and hope that the rest fades."""
    batches = sets.epochs(sets.retain, settings["epochs"], settings["batch_size"], _RETAIN)
    _descent(model, sets, settings)(batches, lambda kept: cross_entropy(model, kept))


def gradient_ascent(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """min −CE(D_f) (Thudi et al. 2022, "Unrolling SGD", arXiv 2109.13398; Golatkar et al. 2020)."""
    batches = sets.epochs(sets.forget, settings["epochs"], settings["batch_size"], _FORGET)
    _descent(model, sets, settings)(batches, lambda gone: -cross_entropy(model, gone))


def neggrad_plus(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """min β·CE(D_r) − (1−β)·CE(D_f) (Kurmanji et al. 2023, arXiv 2302.09880, sect. 5); β = 1 is
    fine-tuning.
    """
    beta = settings["beta"]
    batches = sets.pairs(sets.forget, settings["epochs"], settings["batch_size"])
    _descent(model, sets, settings)(
        batches,
        lambda kept, gone: (
            beta * cross_entropy(model, kept) - (1 - beta) * cross_entropy(model, gone)
        ),
    )


def random_labels(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """min CE(D_f with random wrong labels) + w·CE(D_r) (Golatkar et al. 2020; Fan et al. 2024, eq.
    5).
    """
    _relabel(model, sets, settings, None)


def salun(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """Random labels where the weights are salient for D_f alone (Fan et al. 2024, arXiv 2310.12508,
    eq. 3–5).
    """
    _relabel(model, sets, settings, saliency_masks(model, sets.forget, settings["share"]))


def scrub(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> None:
    """Alternate passes of max KL(teacher‖student) on D_f with min α·KL(teacher‖student) + γ·CE on
    D_r.

    The teacher is the unedited network (Kurmanji et al. 2023, arXiv 2302.09880, eq. 3–4, without
    rewinding). After `ascent_epochs` only D_r is gone through, as there.
    """
    teacher = copy.deepcopy(model).requires_grad_(False)
    descend, size = _descent(model, sets, settings), settings["batch_size"]
    kept = sets.epochs(sets.retain, None, size, _RETAIN)
    gone = sets.epochs(sets.forget, None, size, _FORGET)
    for epoch in range(settings["epochs"]):
        if epoch < settings["ascent_epochs"]:
            descend(
                itertools.islice(gone, -(-len(sets.forget) // size)),
                lambda batch: -divergence(teacher, model, batch),
            )
        descend(
            itertools.islice(kept, -(-len(sets.retain) // size)),
            lambda batch: (
                settings["alpha"] * divergence(teacher, model, batch)
                + settings["gamma"] * cross_entropy(model, batch)
            ),
        )


def cross_entropy(model: nn.Module, batch: Labelled) -> Tensor:
    """Mean cross-entropy, nats."""
    return F.cross_entropy(model(batch.inputs), batch.labels)


def divergence(teacher: nn.Module, student: nn.Module, batch: Labelled) -> Tensor:
    """Mean KL(teacher‖student) of the predicted classes, nats."""
    with torch.no_grad():
        target = F.log_softmax(teacher(batch.inputs), -1)
    return F.kl_div(
        F.log_softmax(student(batch.inputs), -1), target, reduction="batchmean", log_target=True
    )


def saliency_masks(
    model: nn.Module, forget: Labelled, share: float, size: int = 1_024
) -> dict[str, Tensor]:
    """Per open parameter, 1 where |∇CE(D_f)| is among the largest `share` of all open weights
    together, else 0.

    Raises:
        ValueError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be greater than 0 and at most 1, got {share}")
    named = opened(model)
    total = {name: torch.zeros_like(parameter) for name, parameter in named.items()}
    for rows in torch.arange(len(forget), device=forget.labels.device).split(size):
        batch = forget[rows]
        loss = cross_entropy(model, batch) * (len(rows) / len(forget))
        for name, gradient in gradients(loss, named).items():
            total[name] += gradient
    saliency = torch.cat([gradient.abs().flatten() for gradient in total.values()])
    count = max(1, round(share * len(saliency)))
    chosen = torch.zeros_like(saliency)
    chosen[saliency.topk(count).indices] = 1
    parts = chosen.split([gradient.numel() for gradient in total.values()])
    return {name: part.view_as(total[name]) for name, part in zip(total, parts, strict=True)}


def gradients(loss: Tensor, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The gradients of a loss by name; 0 of what it does not depend on, such as heads for training
    alone.
    """
    found = torch.autograd.grad(
        loss, list(named.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(named, found, strict=True))


def opened(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that an algorithm may change, by name."""
    return {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }


def _relabel(
    model: nn.Module, sets: Sets, settings: Mapping[str, Any], masks: Masks | None
) -> None:
    weight, wrong = settings["retain_weight"], sets.mislabelled()
    descend, size = _descent(model, sets, settings), settings["batch_size"]
    if not weight:
        batches = sets.epochs(wrong, settings["epochs"], size, _FORGET)
        descend(batches, lambda gone: cross_entropy(model, gone), _by_parameter(model, masks))
        return
    descend(
        sets.pairs(wrong, settings["epochs"], size),
        lambda kept, gone: cross_entropy(model, gone) + weight * cross_entropy(model, kept),
        _by_parameter(model, masks),
    )


def _by_parameter(model: nn.Module, masks: Masks | None) -> list[tuple[nn.Parameter, Tensor]]:
    return (
        []
        if masks is None
        else [(parameter, masks[name]) for name, parameter in opened(model).items()]
    )


def _descent(model: nn.Module, sets: Sets, settings: Mapping[str, Any]) -> _Descent:
    """Steps of SGD; where no learning rate is given, of `relative_step` of the weights' length."""
    parameters, momentum = opened(model).values(), settings["momentum"]
    optimizer = (
        RelativeSGD(parameters, settings["relative_step"], momentum)
        if settings["learning_rate"] is None
        else torch.optim.SGD(parameters, settings["learning_rate"], momentum)
    )
    return _Descent(model, optimizer, sets.after_step)


@dataclass(frozen=True)
class _Descent:
    """The loop that all algorithms share."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    after_step: Callable[[nn.Module], None]

    def __call__(
        self,
        batches: Iterable[tuple[Labelled, ...]],
        loss: Loss,
        masks: Iterable[tuple[nn.Parameter, Tensor]] = (),
    ) -> None:
        """One step per batch; a masked weight gets no gradient, and so, without weight decay, never
        moves.
        """
        masks = list(masks)
        for batch in batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss(*batch).backward()
            for parameter, mask in masks:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            self.optimizer.step()
            self.after_step(self.model)
