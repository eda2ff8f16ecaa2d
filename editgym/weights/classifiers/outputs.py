"""What a network gives out, whoever wrote it: its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


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


def unread(model: nn.Module, parameters: Sequence[str], example: Tensor) -> list[str]:
    """The parameters that the logits do not depend on, by autograd; none where the network lets no
    gradients through.

    Args:
        model: In evaluation mode; it is not changed.
        parameters: Names in its state dict.
        example: A few inputs.
    """
    learned = {
        name: parameter.detach().requires_grad_()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
    }
    first = first_names(model)
    named = {name: first[name] for name in parameters if name in first}
    asked = [name for name in dict.fromkeys(named.values()) if name in learned]
    with torch.enable_grad():
        logits = logits_of(functional_call(model, learned, (example,)))
        total = logits.sum()
    if not logits.requires_grad:
        return []
    own = [learned[name] for name in asked]
    found = torch.autograd.grad(total, own, allow_unused=True)
    idle = {name for name, gradient in zip(asked, found, strict=True) if gradient is None}
    return [name for name, one in named.items() if one in idle]


def first_names(model: nn.Module) -> dict[str, str]:
    """Per name of a parameter, the first name of that tensor: a tied one has several, of which
    `functional_call` takes one.
    """
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every}


def _logits_alone(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
    return logits_of(output)
