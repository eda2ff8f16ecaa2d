"""Which layers of a network that is no decoder of text are edited where nobody names any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, takewhile

from torch import nn

from editgym.weights.default_sites.layer_flow import Flow, flow_of
from editgym.weights.default_sites.text_layers import third

_NO_BLOCK = re.compile(r"(^|[._])experts?([._]|$)|(^|[._])(attn|attention)$")


def block_outputs(model: nn.Module, names: Sequence[str]) -> list[str]:
    """The outputs of the middle-to-late third of a network's stack of MLP blocks, which are known
    by their shapes, whatever their names.

    A block is two successive linear layers, the first of which makes its input wider and the second
    makes it as wide as before, with a parent that no other block has. Attention, whose values may
    be wider too, and the experts of a mixture are no blocks.

    Args:
        model: The network.
        names: Names of its modules that may be chosen.

    Returns:
        Names in order; empty where there are fewer than two blocks.
    """
    modules = ((name, model.get_submodule(name)) for name in names)
    linear = [(name, module) for name, module in modules if isinstance(module, nn.Linear)]
    blocks: dict[str, str] = {}
    for (name, wider), (after, narrower) in pairwise(linear):
        width, hidden = narrower.out_features, narrower.in_features
        # A gated MLP may make gate and values at once.
        made = wider.out_features in (hidden, 2 * hidden)
        parent = _parent_of_both(name, after)
        if wider.in_features == width < hidden and made and not _NO_BLOCK.search(parent):
            blocks[parent] = after
    return list(third(list(blocks.values()))) if len(blocks) >= 2 else []


def image_layers(model: nn.Module) -> list[str]:
    """The layers of a network of images without a stack of MLPs that are edited by default.

    Layers that are not on the way to the output in evaluation mode, such as auxiliary heads, and
    those of squeeze-and-excitation gates are left out. Of the others, the last hidden `nn.Linear`;
    without one, the convolutions larger than 1×1 of the last stage, that is, with the coarsest
    output. In place of a depthwise or grouped convolution stand those that mix its channels, the
    next ones after it. A network that has one resolution throughout ends in as many convolutions
    as have the last one's width.

    Returns:
        Names, in the model's order; empty where there is neither.
    """
    flow, modules = flow_of(model), dict(model.named_modules())
    usable = {
        name: places[0]
        for name, module in modules.items()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and (places := [p for p in flow.places_of(name, f"{name}.weight") if p not in flow.gates])
    }
    linear = [name for name in usable if isinstance(modules[name], nn.Linear)]
    if len(linear) >= 2:
        return linear[-2:-1]
    convolutions = {name: m for name in usable if isinstance(m := modules[name], nn.Conv2d)}
    spatial = [name for name, m in convolutions.items() if max(m.kernel_size) > 1]
    stage = _last_stage(flow, usable, convolutions, spatial)
    mixing = {usable[name]: name for name, m in convolutions.items() if m.groups == 1}
    chosen: set[str] = set()
    for name in stage:
        mixers = [] if convolutions[name].groups == 1 else _next(flow, usable[name], mixing)
        chosen.update(mixers or [name])
    return [name for name in usable if name in chosen]


def _last_stage(
    flow: Flow, places: dict[str, int], convolutions: dict[str, nn.Conv2d], spatial: Sequence[str]
) -> list[str]:
    """The last stage's convolutions out of the `spatial` ones."""
    if not spatial:
        return []
    coarsest = max(flow.scales[places[name]] for name in spatial)
    if coarsest == 1:
        width = convolutions[spatial[-1]].out_channels
        return [name for name in spatial if convolutions[name].out_channels == width]
    return [name for name in spatial if flow.scales[places[name]] == coarsest]


def _next(flow: Flow, place: int, layers: dict[int, str]) -> list[str]:
    """The nearest of some layers, by their places, on every way onwards from a step."""
    found, waiting, seen = [], list(flow.followers[place]), set()
    while waiting:
        step = waiting.pop()
        if step in seen:
            continue
        seen.add(step)
        if step in layers:
            found.append(layers[step])
        else:
            waiting += flow.followers[step]
    return found


def _parent_of_both(one: str, other: str) -> str:
    both = zip(one.split("."), other.split("."), strict=False)
    return ".".join(own for own, _ in takewhile(lambda pair: pair[0] == pair[1], both))
