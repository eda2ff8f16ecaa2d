"""What one forward pass does at the edited sites of a language model beyond its edited weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from editgym.weights.factors import DenseUpdate, Update
from editgym.weights.journal.journal import Codebook
from editgym.weights.language.given import by_text
from editgym.weights.sites import EditSite, UnknownSiteError


@dataclass(frozen=True)
class Injection:
    """What is added to a module's output at some tokens, differentiably.

    Attributes:
        rows: (n,), the text of every token.
        positions: (n,), where it stands in the text. A (row, position) that occurs twice gets both
            values.
        values: (n, out).
    """

    rows: Tensor
    positions: Tensor
    values: Tensor


class SiteState(NamedTuple):
    """What goes into a site's module, (n, in), and what comes out, (n, out), at n tokens; float32,
    no gradients.
    """

    inputs: Tensor
    outputs: Tensor


@dataclass
class SitePass:
    """What one forward pass does at the sites beyond the edited weights.

    Attributes:
        updates: Further updates, one per site.
        injected: By site name, what is added to outputs.
        texts: Shape of the token ids that go in, (n, length), where something is injected.
        inputs: By site name, what its module was given; None where nobody asks.
        outputs: By site name, what it gave out, where inputs are kept.
    """

    updates: Sequence[Update | None] | None = None
    injected: Mapping[str, Injection] = field(default_factory=dict)
    texts: tuple[int, ...] = ()
    inputs: dict[str, Tensor] | None = None
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, name: str, x: Tensor, out: Tensor) -> None:
        """Keep a site's input and output.

        Raises:
            UnknownSiteError: The site has run before in this pass.
        """
        assert self.inputs is not None
        if name in self.inputs:
            raise UnknownSiteError(
                f"site {name}: the model runs it several times in one pass, as where layers are"
                " gone through again, and such sites are not supported; open others"
            )
        self.inputs[name], self.outputs[name] = x, out

    def before(self) -> SitePass:
        """What the same pass does at tokens that nothing is asked of."""
        return SitePass(self.updates)

    def after(self, opening: int) -> SitePass:
        """The same, where so many first tokens of every text have gone through the model before."""
        injected = {
            name: replace(one, positions=one.positions - opening)
            for name, one in self.injected.items()
        }
        return replace(self, injected=injected)


def candidates_of(updates: Sequence[Update | None]) -> int | None:
    """K of updates with a leading dimension."""
    for update in updates:
        if update is not None and update.bound is not None:
            raise ValueError("an update that is evaluated before it is applied must not be clipped")
    several = [update for update in updates if update is not None and len(update.shape) == 3]
    if any(isinstance(update, DenseUpdate) for update in several):
        raise ValueError(
            "K candidates are evaluated in one pass only as factors, not as dense updates"
        )
    return several[0].shape[0] if several else None


def with_injection(out: Tensor, injection: Injection, texts: tuple[int, ...]) -> Tensor:
    """The output with the values added at their tokens.

    Args:
        out: (..., out), of all tokens.
        injection: The values.
        texts: (n, length), the shape of the batch's token ids.
    """
    dtype = torch.promote_types(out.dtype, injection.values.dtype)
    rows, positions = injection.rows.to(out.device), injection.positions.to(out.device)
    added = by_text(out.to(dtype), texts).index_put(
        (rows, positions), injection.values.to(out.device, dtype), accumulate=True
    )
    return added.view_as(out)


class Difference:
    """W − W₀ of one site in the precision of W₀, for as long as its edits stay.

    It is kept from the second time on that it is asked for: decoding asks for every token, and a
    single pass should not hold those of all sites at once.
    """

    def __init__(self) -> None:
        self._asked = False
        self._kept: Tensor | None = None

    def __call__(self, base: Tensor, edited: Tensor) -> Tensor:
        """The difference, (out, in)."""
        if self._kept is not None:
            return self._kept
        difference = (edited - base.float()).to(base.dtype)
        if self._asked and not difference.requires_grad:
            self._kept = difference
        self._asked = True
        return difference


def edited_output(
    x: Tensor,
    base: Tensor,
    edited: Tensor | None,
    bias: Tensor | None,
    difference: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """x·Wᵀ + b, (..., out), in the precision that W is kept in.

    Args:
        x: (..., in).
        base: The unedited W, (out, in).
        edited: W in float32 where it is edited. Of a base in half precision the edit is a product
            of its own: beside the weight it keeps its eight bits, and both products are done by
            half precision's units.
        bias: (out,).
        difference: Gives W − W₀ for `base` and `edited`, where it is needed.
    """
    half = base.dtype in (torch.bfloat16, torch.float16)
    weight = base if edited is None or half else edited
    out = F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
    if edited is not None and half:
        out = out + F.linear(x.to(base.dtype), difference(base, edited))
    return out


def product(x: Tensor, update: Update) -> Tensor:
    """x·Dᵀ, and with factors without forming D: (n, length, in) -> (n, length, out), or K
    candidates along n.
    """
    if isinstance(update, DenseUpdate):
        return F.linear(x.to(update.d.dtype), update.d)
    a, b = update.a * update.scale, update.b
    x = x.to(a.dtype)
    if a.ndim == 2:
        return F.linear(F.linear(x, b), a)
    grouped = x.reshape(len(a), -1, x.shape[-1])  # (K, tokens, in)
    return (grouped @ b.mT @ a.mT).reshape(*x.shape[:-1], a.shape[-2])


def looked_up(x: Tensor, out: Tensor, code: Codebook) -> Tensor:
    """The nearest key's value, of equally near ones the latest, where an input lies within that
    key's radius; the module's own output elsewhere.
    """
    values, radii = code.values.to(out), code.radii.to(out.device)
    # In half precision a key and itself would lie a twentieth of their length apart.
    distances = torch.cdist(
        x.reshape(1, -1, x.shape[-1]).float(), code.keys.to(out.device).float().unsqueeze(0)
    )[0]
    nearest = distances.min(1, keepdim=True).values
    # The last of equal ones: a prompt that is edited again has the same keys twice.
    index = (distances == nearest) * torch.arange(1, len(code.keys) + 1, device=out.device)
    nearest, index = nearest[:, 0], index.argmax(1)
    held = (nearest <= radii[index]).view(*x.shape[:-1], 1)
    return torch.where(held, values[index].view_as(out), out)


def check_codebook(code: Codebook, site: EditSite) -> None:
    """Refuse a codebook that does not fit a site.

    Raises:
        ValueError: Its keys, values or radii are of another shape.
    """
    rows, columns = site.shape
    if (
        code.keys.shape[1:] != (columns,)
        or code.values.shape[1:] != (rows,)
        or not (len(code.keys) == len(code.values) == len(code.radii))
    ):
        raise ValueError(
            f"codebook: {code.site} takes keys (n, {columns}), values (n, {rows}) and radii (n,),"
            f" got {tuple(code.keys.shape)}, {tuple(code.values.shape)}, {tuple(code.radii.shape)}"
        )
