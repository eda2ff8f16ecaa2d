"""Whether forgetting is real: what can still be told of the forgotten data from a network, and
brought back.

All checks are deterministic: on one thread, with seeds of their own, they give the same bits on one
machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from editgym.data.image_data import check_finite
from editgym.data.images import Labelled
from editgym.metrics.classification import accuracy
from editgym.models.heads import features_before, last_linear
from editgym.models.training import one_thread
from editgym.weights import full_precision

RELEARN_CAP = 500
RELEARN_SHARE = 0.9
_RELEARN_RATE, _RELEARN_BATCH, _RELEARN_SEED = 0.01, 64, 0
# What a retrained network is compared in; steps count as a share of the cap.
_COMPARED = (
    "retain_accuracy",
    "forget_accuracy",
    "test_accuracy",
    "probe_accuracy",
    "relearn_steps",
    "mia_advantage",
)


@dataclass(frozen=True)
class Evidence:
    """The data that the checks of one goal use.

    Attributes:
        forget: What forget accuracy is reported on; relearning is watched, and a probe is tested,
            on it.
        relearn: Data with the forgotten and the retained, to relearn from.
        probe: What a probe is fitted to: all classes, the forgotten ones too; None where no class
            is forgotten.
        members: Forgotten samples that the network was trained on; None where it is not known which
            those are.
        others: Samples like `members` that it was not trained on.
    """

    forget: Labelled
    relearn: Labelled
    probe: Labelled | None
    members: Labelled | None
    others: Labelled

    def __post_init__(self) -> None:
        check_parts(self, ("forget", "relearn", "probe", "members", "others"))


def check_parts(owner: object, names: Sequence[str]) -> None:
    """Refuse data with inputs that are not finite.

    Args:
        owner: What has the data as attributes.
        names: The attributes' names; None in them is passed over.

    Raises:
        DataError: Some are not; the message names attribute and row.
    """
    for name in names:
        part = getattr(owner, name)
        if part is not None:
            check_finite(part.inputs, f"{type(owner).__name__}.{name}")


def check_network(model: nn.Module) -> None:
    """Refuse a network whose tensors are not finite: what it computes could be anything. What a
    network of finite tensors computes may overflow, and is measured as it is.

    Raises:
        ValueError: Some are not; the message names the first.
    """
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"model: the tensor {name!r} of {type(model).__name__} has numbers that are not"
                " finite, so nothing that is measured of it would mean anything"
            )


@contextmanager
def same_bits() -> Iterator[None]:
    """One thread and full precision, under which a check or an attack gives the same bits on one
    machine.
    """
    import sklearn.linear_model  # noqa: F401  # the limit holds for libraries that are loaded

    with one_thread(), threadpool_limits(limits=1), full_precision():
        yield


def forgetting_checks(
    model: nn.Module, evidence: Evidence, accuracy_before: float
) -> dict[str, float | None]:
    """`mia_advantage`, `probe_accuracy` and `relearn_steps` of a network.

    Args:
        model: Images -> logits, in evaluation mode, with parameters that may be trained: relearning
            changes them.
        evidence: The data.
        accuracy_before: Forget accuracy of the unedited network: relearning ends at 90% of it.

    Raises:
        ValueError: The network's tensors, or `accuracy_before`, are not finite.
    """
    if not math.isfinite(accuracy_before):
        raise ValueError(f"accuracy_before must be finite, got {accuracy_before}")
    with same_bits():
        return {
            "mia_advantage": (
                None
                if evidence.members is None
                else membership_advantage(model, evidence.members, evidence.others)
            ),
            "probe_accuracy": (
                None
                if evidence.probe is None
                else probe_accuracy(model, evidence.probe, evidence.forget)
            ),
            "relearn_steps": relearn_steps(
                model, evidence.relearn, evidence.forget, RELEARN_SHARE * accuracy_before
            ),
        }


def oracle_gap(metrics: Mapping[str, float | None], oracle: Mapping[str, float | None]) -> float:
    """Mean absolute difference to the retrained network in accuracies, probe, relearning and
    membership.

    Every part is in 0–1: relearning steps are divided by their cap. Parts that are None on either
    side are left out.

    Raises:
        ValueError: A part is not finite.
    """
    gaps = []
    for key in _COMPARED:
        own, other = metrics.get(key), oracle.get(key)
        if not (math.isfinite(own or 0.0) and math.isfinite(other or 0.0)):
            raise ValueError(f"{key} must be finite or None, got {own}, and {other} of the oracle")
        if own is not None and other is not None:
            gaps.append(abs(own - other) / (RELEARN_CAP if key == "relearn_steps" else 1))
    return sum(gaps) / len(gaps)


def membership_advantage(model: nn.Module, members: Labelled, others: Labelled) -> float:
    """|AUC − 0.5|·2 of telling members from others by their loss (Yeom et al. 2018, arXiv
    1709.01604).

    0 is a coin toss, 1 is certainty. The attack knows no more than the loss: stronger ones exist.

    Raises:
        ValueError: The network's tensors, or inputs, are not finite.
    """
    from sklearn.metrics import roc_auc_score

    check_network(model)
    losses = np.concatenate([margins(model, part) for part in (members, others)])
    is_member = np.repeat([1, 0], [len(members), len(others)])
    return abs(float(roc_auc_score(is_member, losses)) - 0.5) * 2


def probe_accuracy(model: nn.Module, fit: Labelled, forget: Labelled) -> float | None:
    """Recall on the forgotten classes of a logistic regression on the penultimate features.

    The probe is multinomial, with an L2 penalty (C = 1), on features standardised by those of
    `fit`. It sees labels of the forgotten classes, which the edited network's own head may not tell
    any more: what it recovers is still there.

    Returns:
        The recall on `forget`; None where the network does not end in a linear layer.

    Raises:
        ValueError: The network's tensors, or inputs, are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    check_network(model)
    for name, part in (("fit", fit), ("forget", forget)):
        check_finite(part.inputs, name)
    head = last_linear(model, fit.inputs[:2])
    if head is None:
        return None
    seen, tested = (finite(features_before(model, head, part.inputs)) for part in (fit, forget))
    mean, scale = seen.mean(axis=0), seen.std(axis=0)
    scale[scale < 1e-8 * max(1.0, float(scale.max()))] = 1.0  # a dead unit tells nothing
    probe = LogisticRegression(max_iter=1_000).fit((seen - mean) / scale, fit.labels.cpu().numpy())
    return float(np.mean(probe.predict((tested - mean) / scale) == forget.labels.cpu().numpy()))


def relearn_steps(model: nn.Module, data: Labelled, forget: Labelled, target: float) -> int:
    """SGD steps on all of `data` until the accuracy on `forget` is at least `target`, at most
    `RELEARN_CAP`.

    Learning rate 0.01, batches of 64, no momentum; batch-norm statistics stay as they are. `model`
    is changed.

    Raises:
        ValueError: The network's tensors, or inputs, are not finite.
    """
    check_network(model)
    for name, part in (("data", data), ("forget", forget)):
        check_finite(part.inputs, name)
    generator = torch.Generator().manual_seed(_RELEARN_SEED)
    optimizer = torch.optim.SGD(model.parameters(), _RELEARN_RATE)
    waiting: list[Tensor] = []
    for step in range(RELEARN_CAP):
        if _accuracy(model, forget) >= target:
            return step
        waiting = waiting or list(
            torch.randperm(len(data), generator=generator).split(_RELEARN_BATCH)
        )
        batch = data[waiting.pop(0).to(data.labels.device)]
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            F.cross_entropy(model(batch.inputs), batch.labels).backward()
        optimizer.step()
    return RELEARN_CAP


@torch.no_grad()
def margins(model: nn.Module, data: Labelled) -> np.ndarray:
    """A number per sample in the order of the cross-entropies: the others' logsumexp less the own
    class's logit.

    The cross-entropy is its softplus, which is 0 for whatever the network is sure of: those samples
    would tie.

    Raises:
        DataError: Inputs are not finite.
    """
    check_finite(data.inputs, "data")
    logits = torch.cat([model(part) for part in data.inputs.split(1_024)]).double()
    own = F.one_hot(data.labels, logits.shape[-1]).bool()
    return finite(logits.masked_fill(own, -torch.inf).logsumexp(-1) - logits[own])


def finite(values: Tensor) -> np.ndarray:
    """Values in double precision; an edit that wrecks a network may make it compute what is not
    finite.
    """
    return np.nan_to_num(values.double().cpu().numpy(), nan=0.0, posinf=1e30, neginf=-1e30)


@torch.no_grad()
def _accuracy(model: nn.Module, data: Labelled) -> float:
    return accuracy(torch.cat([model(part) for part in data.inputs.split(1_024)]), data.labels)
