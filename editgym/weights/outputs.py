"""What a network gives out, whoever wrote it: its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class OutputError(ValueError):
    """A network gives out nothing that can be taken for logits."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a network gave out: a tensor, an output of `transformers` or another
    object with `.logits`, a mapping with `logits`, or a tuple that begins with them.

    Raises:
        OutputError: There are no logits in it.
    """
    found = output
    if not isinstance(found, Tensor):
        found = getattr(output, "logits", None)
    if found is None and isinstance(output, dict):
        found = output.get("logits")
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise OutputError(
            f"the network gives out a {type(output).__name__}; expected logits, (n, classes): a"
            " tensor, an object with .logits, a mapping with logits, or a tuple that begins with"
            " them"
        )
    return found


@torch.no_grad()
def gives_logits(model: nn.Module, example: Tensor) -> nn.Module:
    """The model, changed to give out its logits alone where it gives out more.

    A hook of the model itself sees to it, so that its copies, and whoever calls these, get logits
    too; its modules and tensors keep their names.

    Args:
        model: In evaluation mode; it is changed.
        example: A few inputs.

    Raises:
        OutputError: There are no logits in what it gives out.
    """
    output = model(example)
    if logits_of(output) is not output:
        model.register_forward_hook(_logits_alone)
    return model


def _logits_alone(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
    return logits_of(output)
