"""What one forward pass does at the edited sites of a language model beyond its edited weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.weights.factors import DenseUpdate, Update
from editgym.weights.journal import Codebook
from editgym.weights.sites import EditSite
from editgym.weights.tokens import TokenBatch

_LAYER = re.compile(r"^(.*?)\.(\d+)\.")


@dataclass
class Capture:
    """What happened at the sites during one forward and backward pass, at answer tokens only.

    Attributes:
        keys: (m, in) per site: the module's inputs.
        gradients: (m, out) per site: of the loss, by the module's outputs.
        loss: Mean cross-entropy: over the answer tokens of a text, then over texts.
    """

    keys: list[Tensor]
    gradients: list[Tensor]
    loss: float


@dataclass(frozen=True)
class Injection:
    """What is added to a module's output at some tokens, differentiably.

    Attributes:
        rows: (n,), the text of every token.
        positions: (n,), where it stands in the text. A (row, position) that occurs twice gets both values.
        values: (n, out).
    """

    rows: Tensor
    positions: Tensor
    values: Tensor


class Prefix(NamedTuple):
    """What a forward pass that begins at a layer begins with.

    Attributes:
        activations: That layer's input, (n, length, width).
        layer: Its number.
    """

    activations: Tensor
    layer: int

    def repeat(self, times: int) -> Prefix:
        """The same texts several times, one after the other."""
        return Prefix(self.activations.repeat(times, 1, 1), self.layer)

    @classmethod
    def join(cls, prefixes: Sequence[Prefix]) -> Prefix:
        """Those of several batches, all at one layer, as that of the joined batch: padded to one length."""
        longest = max(one.activations.shape[1] for one in prefixes)
        return cls(torch.cat([F.pad(one.activations, (0, 0, 0, longest - one.activations.shape[1]))
                              for one in prefixes]), prefixes[0].layer)


class SiteState(NamedTuple):
    """What goes into a site's module, (n, in), and what comes out, (n, out), at n tokens; float32, no gradients."""

    inputs: Tensor
    outputs: Tensor


@dataclass
class SitePass:
    """What one forward pass does at the sites beyond the edited weights."""

    updates: Sequence[Update | None] | None = None
    injected: Mapping[str, Injection] = field(default_factory=dict)
    inputs: dict[str, Tensor] | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)


def candidates_of(updates: Sequence[Update | None]) -> int | None:
    """K of updates with a leading dimension."""
    for update in updates:
        if update is not None and update.bound is not None:
            raise ValueError("an update that is evaluated before it is applied must not be clipped")
    several = [update for update in updates if update is not None and len(update.shape) == 3]
    if any(isinstance(update, DenseUpdate) for update in several):
        raise ValueError("K candidates are evaluated in one pass only as factors, not as dense updates")
    return several[0].shape[0] if several else None


def with_injection(out: Tensor, injection: Injection) -> Tensor:
    """The output with the values added at their tokens."""
    dtype = torch.promote_types(out.dtype, injection.values.dtype)
    return out.to(dtype).index_put((injection.rows, injection.positions), injection.values.to(dtype), accumulate=True)


def product(x: Tensor, update: Update) -> Tensor:
    """x·Dᵀ, and with factors without forming D: (n, length, in) -> (n, length, out), or K candidates along n."""
    if isinstance(update, DenseUpdate):
        return F.linear(x.to(update.d.dtype), update.d)
    a, b = update.a * update.scale, update.b
    x = x.to(a.dtype)
    if a.ndim == 2:
        return F.linear(F.linear(x, b), a)
    grouped = x.reshape(len(a), -1, x.shape[-1])  # (K, tokens, in)
    return (grouped @ b.mT @ a.mT).reshape(*x.shape[:-1], a.shape[-2])


def looked_up(x: Tensor, out: Tensor, code: Codebook) -> Tensor:
    """The nearest key's value where an input lies within that key's radius; the module's own output elsewhere."""
    values, radii = code.values.to(out), code.radii.to(out.device)
    # In half precision a key and itself would lie a twentieth of their length apart.
    distances = torch.cdist(x.reshape(1, -1, x.shape[-1]).float(), code.keys.to(out.device).float().unsqueeze(0))[0]
    nearest, index = distances.min(1)
    held = (nearest <= radii[index]).view(*x.shape[:-1], 1)
    return torch.where(held, values[index].view_as(out), out)


def check_codebook(code: Codebook, site: EditSite) -> None:
    """Refuse a codebook that does not fit a site.

    Raises:
        ValueError: Its keys, values or radii are of another shape.
    """
    rows, columns = site.shape
    if code.keys.shape[1:] != (columns,) or code.values.shape[1:] != (rows,) or not (
            len(code.keys) == len(code.values) == len(code.radii)):
        raise ValueError(f"codebook: {code.site} takes keys (n, {columns}), values (n, {rows}) and radii (n,), got "
                         f"{tuple(code.keys.shape)}, {tuple(code.values.shape)}, {tuple(code.radii.shape)}")


@contextmanager
def forwards(replaced: Sequence[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Give modules other forwards; afterwards they have the ones of before, be they of their class or a hook's."""
    before = [module.__dict__.get("forward") for module, _ in replaced]
    for module, forward in replaced:
        module.forward = forward
    try:
        yield
    finally:
        for (module, _), own in zip(replaced, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own


def skip(activations: Tensor, tuples: bool, *_: Any, **__: Any) -> Any:
    """A layer's forward that gives out `activations`, in a tuple where the model's layers do."""
    return (activations,) if tuples else activations


def layers_of(model: nn.Module, sites: Sequence[EditSite]) -> tuple[Any, dict[str, int]]:
    """The list of layers that all sites lie in, and the layer of each; None and nothing if there is no such list."""
    found = {site.name: _LAYER.match(site.name) for site in sites}
    lists = {match.group(1) if match else None for match in found.values()}
    if len(lists) != 1 or None in lists:
        return None, {}
    layers = model.get_submodule(lists.pop())  # type: ignore[arg-type]
    return (layers, {name: int(m.group(2)) for name, m in found.items() if m}) if isinstance(
        layers, nn.ModuleList) else (None, {})


def at_answers(x: Tensor, batch: TokenBatch) -> Tensor:
    """(m, width) of (n, length, width); the head's are (m, width) already, for it is asked at answer tokens only."""
    return x if x.ndim == 2 else x[batch.rows, batch.positions]
