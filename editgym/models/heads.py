"""A classifier's last linear layer: which one it is, and what goes into it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def last_linear(model: nn.Module, example: Tensor) -> str | None:
    """The name of the `nn.Linear` whose output is the network's; None where it ends in another way.

    A network that hands its last layer's output on as another tensor of the same numbers, as
    wrappers do, ends in that layer too.

    Args:
        model: A classifier, inputs -> logits.
        example: A few inputs, to run it with, (n, ...).
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(lambda _, __, output: outputs.update({name: output}))

    linear = [one for one in model.named_modules() if isinstance(one[1], nn.Linear)]
    handles = [keep(name, module) for name, module in linear]
    try:
        logits = model(example)
    finally:
        for handle in handles:
            handle.remove()
    same = [
        name
        for name, output in outputs.items()
        if output is logits or (output.shape == logits.shape and torch.equal(output, logits))
    ]
    return same[-1] if same else None


@torch.no_grad()
def features_before(
    model: nn.Module, layer: str, inputs: Tensor, batch_size: int = 1_024
) -> Tensor:
    """What goes into the layer called `layer`, (n, features).

    Args:
        model: A classifier, inputs -> logits.
        layer: The layer's name.
        inputs: The inputs, (n, ...).
        batch_size: How many inputs go through the model at a time.
    """
    found: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_pre_hook(
        lambda _, given: found.append(given[0])
    )
    try:
        for part in inputs.split(batch_size):
            model(part)
    finally:
        handle.remove()
    return torch.cat(found)
