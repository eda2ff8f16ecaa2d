"""Which layers of a decoder of text are edited where nobody names any."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

# Not the experts of a mixture: each sees the tokens that it is chosen for, and no others.
_EXPERT = re.compile(r"(^|\.)experts?\.\d+(\.|$)")
_ROUTER = re.compile(r"(^|\.)(router|gate|shared_expert_gate)(\.|$)")
_NORM = re.compile(r"layer_?norm\d*\.")
_Layer = TypeVar("_Layer")
_NOT_TEXT = re.compile(r"(^|[._])(vision|visual|image|img|audio|speech)([._]|$)")


def of_text(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Names of a model's modules that text goes through: of a model of text and other things, such
    as images, those in its decoder; all of any other model.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "get_text_config"):
        return list(names)
    inside: list[str] = []
    if config.get_text_config(decoder=True) is not config:
        decoder = model.get_decoder()  # type: ignore[operator]
        inside = [name for name, module in model.named_modules() if module is decoder and name]
    kept = [name for name in names if not inside or name.startswith(f"{inside[0]}.")]
    if model.get_output_embeddings() is None:  # type: ignore[operator]
        return kept  # a network that gives out no tokens may be of images alone
    return [name for name in kept if not _NOT_TEXT.search(name)]


def third(layers: Sequence[_Layer]) -> Sequence[_Layer]:
    """The middle-to-late third of layers, in their order."""
    return layers[len(layers) // 2 : (5 * len(layers) + 5) // 6]


def middle_to_late(
    outputs: Mapping[int, Sequence[str]], attention: Mapping[int, Sequence[str]]
) -> list[str]:
    """The outputs of MLPs in the middle-to-late third of a transformer's layers, where ROME, MEMIT
    and their successors edit; where no MLP there has one, as where experts are chosen for each
    token and none is shared, the outputs of attention.

    Args:
        outputs: Names of the MLPs' outputs, by the number of the layer.
        attention: Names of the outputs of attention, by the number of the layer.
    """
    layers = sorted({*outputs, *attention})
    window = third(layers)
    for found in (outputs, attention):
        if names := [name for layer in window for name in found.get(layer, ())]:
            return names
    return []


def reads_every_token(name: str) -> bool:
    """Whether a module, by its name, is given all tokens and gives out what is added to hidden
    states: no expert that is chosen for some, no router, nothing inside a norm.
    """
    return not any(pattern.search(name) for pattern in (_EXPERT, _ROUTER, _NORM))
