"""Whether a classifier of one's own can be judged on images: what it takes and returns; and whether
a retrained one is fit to be compared with.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from editgym.data.errors import DataError
from editgym.data.images import ImageData
from editgym.weights import EditableNetwork

_LOOKED_AT = 64  # images
# A network retrained without a class is a few points better or worse on the others than the one
# that is edited, and gives images of a class that it never saw to others.
_RETAIN_LOST, _FORGET_KNOWN = 0.1, 0.1


@torch.no_grad()
def check_takes(model: nn.Module, inputs: Tensor, source: str) -> None:
    """Refuse images that a network cannot take.

    Args:
        model: In evaluation mode, on the images' device.
        inputs: Images, (n, ...).
        source: Where they were read from, for messages.

    Raises:
        DataError: Its forward pass fails; the message says what the images are, and what its first
            layer takes.
    """
    try:
        model(inputs[:2])
    except Exception as error:  # a stranger's network may raise anything
        raise DataError(
            f"data: {type(model).__name__} cannot take the images of {source}, of shape"
            f" {tuple(inputs.shape[1:])} (channels, height, width){_first_layer(model, inputs)}:"
            f" {type(error).__name__}: {error}"
        ) from error


def check_outputs(network: EditableNetwork, inputs: Tensor, data: ImageData) -> None:
    """Refuse a network whose outputs are not logits of the data's classes.

    Args:
        network: The unedited network.
        inputs: Images, (n, ...); a few are looked at.
        data: The data that they are of.

    Raises:
        DataError: The outputs are not (n, outputs), are fewer than the classes, are not finite, or
            are probabilities.
    """
    name, inputs = type(network.base).__name__, inputs[:_LOOKED_AT]
    logits = network.logits(inputs)
    if logits.ndim != 2 or len(logits) != len(inputs):
        raise DataError(
            f"model: {name} returns {tuple(logits.shape)} for {len(inputs)} images; it must return"
            " logits (n, classes)"
        )
    if logits.shape[1] < data.n_classes:
        without_zero = bool((data.train.labels > 0).all())
        hint = "; no image has the label 0: labels are 0 … C - 1" if without_zero else ""
        last = data.n_classes - 1
        found = f"{data.n_classes} names of classes" if data.classes else f"labels up to {last}"
        raise DataError(
            f"data: {data.source} has {found}, but {name} has only {logits.shape[1]} outputs{hint}"
        )
    if not bool(logits.isfinite().all()):
        row = int((~logits.isfinite()).any(1).nonzero()[0])
        raise DataError(
            f"model: {name} returns what is not finite for image {row} of the policy split of"
            f" {data.source}; are its weights those of this network, and the pixels as it was"
            " trained on them (mean=, std=)?"
        )
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise DataError(
            f"model: {name} returns probabilities, which sum to 1 for every image; it must return"
            " logits: leave its softmax out"
        )


def warn_of_poor_oracle(
    place: str,
    before: Mapping[str, float | None],
    oracle: Mapping[str, float | None],
    *,
    saw_no_class: bool,
) -> None:
    """Warn that a retrained network is no measure of forgetting.

    Args:
        place: The network and the goal, for messages.
        before: Measures of the unedited network, with `retain_accuracy`.
        oracle: The same of the retrained one, with `forget_accuracy` too.
        saw_no_class: Whether whole classes were kept from it, so that it cannot know them.
    """
    full, own = before["retain_accuracy"] or 0.0, oracle["retain_accuracy"] or 0.0
    known = oracle["forget_accuracy"] or 0.0
    compared = "oracle_gap and the shares that attacks recover are measured against it"
    if full - own > _RETAIN_LOST:
        warnings.warn(
            f"retrain: the oracle of {place} has a retain accuracy of {own:.1%}, and the unedited"
            f" network {full:.1%}, on test images: it was trained poorly, and {compared}; train it"
            " as the network was, for as long",
            stacklevel=2,
        )
    elif saw_no_class and known > _FORGET_KNOWN:
        warnings.warn(
            f"retrain: the oracle of {place} has a forget accuracy of {known:.1%} on test images,"
            f" as if it had seen what is forgotten, and {compared}; begin with the network that"
            " is handed in, and train it on the images that are, alone",
            stacklevel=2,
        )


def _first_layer(model: nn.Module, inputs: Tensor) -> str:
    """What the first layer takes, where images have another number of channels."""
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            if inputs.ndim == 4 and layer.in_channels != inputs.shape[1]:
                return (
                    f"; its first convolution, {name!r}, takes {layer.in_channels} channels, and"
                    f" these have {inputs.shape[1]} (channels={layer.in_channels} reads the images"
                    " of a folder so, where that is 1 or 3)"
                )
            return ""
    return ""
