"""Attacks on forgetting: how much of what was forgotten can be had back, for how little.

The checks of `editgym.metrics.privacy` say what is still there. An attack says what it takes to use
it: a constant on one logit, a few images, coarser weights. An edit that only hides a class gives
way to one of them, where a network that never saw the class does not.

All attacks are deterministic, as the checks are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.data.image_data import check_finite
from editgym.data.images import Labelled
from editgym.metrics.classification import accuracy
from editgym.metrics.privacy import check_network, check_parts, finite, margins, same_bits
from editgym.metrics.recovery import FALSE_POSITIVES
from editgym.models.heads import features_before, last_linear

RELEARN_IMAGES, RELEARN_RATES = (1, 2, 5), (0.001, 0.01, 0.1)
# The accuracy is looked at after so many steps on the few images.
RELEARN_LOOKS = (1, 3, 10)
_RETAINED = 256  # images that tell whether the rest survives an attack
_SEED = 0


@dataclass(frozen=True)
class Target:
    """What an attacker wants back, and the data that an attack is made with and judged on.

    Attributes:
        forget: Test images of what was forgotten, or, where samples were forgotten, the samples.
        retain: Test images of the rest.
        classes: The forgotten classes; empty where samples were forgotten.
        images: Forgotten images that an attacker may have, none of them a test image unless samples
            were forgotten.
        members: Forgotten samples that the network was trained on; None where it is not known which
            those are.
        others: Samples like `members` that it was not trained on.
    """

    forget: Labelled
    retain: Labelled
    classes: tuple[int, ...]
    images: Labelled
    members: Labelled | None
    others: Labelled

    def __post_init__(self) -> None:
        check_parts(self, ("forget", "retain", "images", "members", "others"))
        object.__setattr__(self, "retain", _some(self.retain, _RETAINED))


def attacks(model: nn.Module, unedited: nn.Module, target: Target) -> dict[str, float | None]:
    """What each attack reaches against a network: the metrics of `recovery.ATTACKS`, and
    `logit_attack_accuracy`.

    Args:
        model: Images -> logits, in evaluation mode; it is left as it is.
        unedited: The network before the edit.
        target: What is attacked.

    Returns:
        `mia_signed` and `mia_tpr` (`membership`), None where no members are known; `logit_attack`
        and `logit_attack_accuracy` (`logit_attack`), None where samples were forgotten;
        `few_image_relearning`; `rounding_8bit` and `rounding_4bit`; `feature_cka`, None where the
        network does not end in a linear layer.

    Raises:
        ValueError: A network's tensors are not finite.
    """
    with same_bits():
        signed, tpr = membership(model, target)
        auc, best = logit_attack(model, target)
        return {
            "mia_signed": signed,
            "mia_tpr": tpr,
            "logit_attack": auc,
            "logit_attack_accuracy": best,
            "few_image_relearning": few_image_relearning(model, target),
            "rounding_8bit": balanced_accuracy(rounded(model, 8), target),
            "rounding_4bit": balanced_accuracy(rounded(model, 4), target),
            "feature_cka": feature_cka(model, unedited, target.forget.inputs),
        }


def membership(model: nn.Module, target: Target) -> tuple[float | None, float | None]:
    """Telling members from others by their loss (Yeom et al. 2018, arXiv 1709.01604): 2·AUC − 1,
    and the true-positive rate at 1% false positives (Carlini et al. 2022, arXiv 2112.03570).

    Positive is the usual sign: the network is surer of what it was trained on. Negative means that
    the forgotten samples stand out by a larger loss, which gives them away as well.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    check_network(model)
    if target.members is None:
        return None, None
    scores = -np.concatenate([margins(model, part) for part in (target.members, target.others)])
    is_member = np.repeat([1, 0], [len(target.members), len(target.others)])
    false, true, _ = roc_curve(is_member, scores, drop_intermediate=False)
    return (
        2 * float(roc_auc_score(is_member, scores)) - 1,
        float(true[false <= FALSE_POSITIVES].max()),
    )


def logit_attack(model: nn.Module, target: Target) -> tuple[float | None, float | None]:
    """Any constant added to the forgotten class's logit: 2·AUC − 1 over all constants, and the
    balanced accuracy of the best one in telling the class's images from the others'.

    An image is given to the class where the class's logit and the constant exceed the largest logit
    of a retained class, so the ROC curve of that margin is what all constants can do. Of several
    classes it is the mean over those that have images; None where none has.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    check_network(model)
    if not target.classes:
        return None, None
    found, others = _logits(model, target.forget.inputs), _logits(model, target.retain.inputs)
    kept = torch.ones(found.shape[-1], dtype=torch.bool, device=found.device)
    kept[list(target.classes)] = False
    aucs, best = [], []
    for forgotten in target.classes:
        own = found[target.forget.labels == forgotten]
        if not len(own):
            continue
        leads = finite(
            torch.cat([part[:, forgotten] - part[:, kept].amax(1) for part in (own, others)])
        )
        is_own = np.repeat([1, 0], [len(own), len(others)])
        false, true, _ = roc_curve(is_own, leads, drop_intermediate=False)
        aucs.append(2 * float(roc_auc_score(is_own, leads)) - 1)
        best.append(float(((true + 1 - false) / 2).max()))
    return (float(np.mean(aucs)), float(np.mean(best))) if aucs else (None, None)


def few_image_relearning(model: nn.Module, target: Target) -> float:
    """The best balanced accuracy after SGD on 1, 2 or 5 forgotten images alone, at three learning
    rates, of up to 10 steps (relearning attacks: Lynch et al. 2024, arXiv 2402.16835; Hu et al.
    2024, arXiv 2406.13356).

    The images of a smaller number are among those of a larger one. Batch-norm statistics stay as
    they are. No step at all is one of the choices.
    """
    check_network(model)
    shuffled = target.images[_order(len(target.images)).to(target.images.labels.device)]
    best = _balanced_accuracy(model, target)
    for count in RELEARN_IMAGES:
        rows = torch.arange(min(count, len(shuffled)), device=shuffled.labels.device)
        for rate in RELEARN_RATES:
            best = max(best, *_relearned(model, shuffled[rows], rate, target))
    return best


def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy whose weights are rounded to `bits` bits, each output's to its own symmetric grid;
    biases and norms stay as they are.

    Coarse weights can undo an edit that moved them little (Zhang et al. 2024, arXiv 2410.16454).
    """
    check_network(model)
    coarse, most = copy.deepcopy(model), 2 ** (bits - 1) - 1
    with torch.no_grad():
        for weight in coarse.parameters():
            if weight.dim() > 1:
                step = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)) / most
                weight.copy_(torch.where(step > 0, (weight / step).round() * step, weight))
    return coarse


def feature_cka(model: nn.Module, unedited: nn.Module, inputs: Tensor) -> float | None:
    """Linear centred kernel alignment of the penultimate features with those of the unedited
    network (Kornblith et al. 2019, arXiv 1905.00414, eq. 3), 0–1.

    At 1 the features are the same up to a rotation and one factor: all that was known of these
    images is still told apart there.

    Args:
        model: The edited network.
        unedited: The network before the edit.
        inputs: The images that they are compared on.
    """
    check_finite(inputs, "inputs")
    for one in (model, unedited):
        check_network(one)
    head = last_linear(model, inputs[:2])
    if head is None:
        return None
    own, former = (
        _centred(finite(features_before(one, head, inputs))) for one in (model, unedited)
    )
    size = float(np.linalg.norm(own.T @ own) * np.linalg.norm(former.T @ former))
    return float(np.linalg.norm(own.T @ former) ** 2) / size if size > 0 else 0.0


def balanced_accuracy(model: nn.Module, target: Target) -> float:
    """The mean of the accuracies on what was forgotten and on the rest: 0.5 is what it takes no
    knowledge of the forgotten to reach.
    """
    check_network(model)
    return _balanced_accuracy(model, target)


def _balanced_accuracy(model: nn.Module, target: Target) -> float:
    parts = (target.forget, target.retain)
    return sum(accuracy(_logits(model, part.inputs), part.labels) for part in parts) / len(parts)


def _relearned(model: nn.Module, images: Labelled, rate: float, target: Target) -> list[float]:
    """The balanced accuracy at every look of SGD on a few images."""
    learner = copy.deepcopy(model).requires_grad_(True)
    optimizer = torch.optim.SGD(learner.parameters(), rate)
    seen = []
    for step in range(1, max(RELEARN_LOOKS) + 1):
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(learner(images.inputs), images.labels).backward()
            optimizer.step()
        if step in RELEARN_LOOKS:
            seen.append(_balanced_accuracy(learner, target))  # too fast a rate may diverge
    return seen


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([model(part) for part in inputs.split(1_024)])


def _centred(features: np.ndarray) -> np.ndarray:
    # Scaled, so that features that an edit has blown up have squares; the alignment has no scale.
    moved: np.ndarray = features - features.mean(axis=0)
    largest = float(np.abs(moved).max())
    return moved / largest if largest > 0 else moved


def _some(data: Labelled, most: int) -> Labelled:
    """All of the data, or `most` samples of a larger set, always the same."""
    if len(data) <= most:
        return data
    return data[_order(len(data))[:most].to(data.labels.device)]


def _order(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
