"""Which weight matrices of a network can be edited, and how each is seen as an `out × in`
matrix.
"""

from __future__ import annotations

import difflib
import fnmatch
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from editgym.imports import is_of_library
from editgym.weights.default_sites.default_layers import block_outputs, image_layers
from editgym.weights.default_sites.text_layers import middle_to_late, of_text, reads_every_token

Kind = Literal["linear", "conv1d", "conv2d", "in_proj"]
Role = Literal["mlp inputs", "mlp outputs", "attention inputs", "attention outputs"]

MLP_OUTPUTS = (
    "down_proj",
    "c_proj",
    "fc_out",
    "fc2",
    "dense_4h_to_h",
    "wo",
    "w2",
    "output_linear",
)
RESIDUAL_OUTPUTS = (*MLP_OUTPUTS, "o_proj", "out_proj", "dense")

_MLP_OUTPUT = re.compile(rf"({'|'.join(MLP_OUTPUTS)}|proj_out)$")
_LAYER = re.compile(r"^(.*?)\.(\d+)\.")
_ATTENTION_PATH = re.compile(r"(^|[._])(attn|attention)([._]|$)")
_MLP_PATH = re.compile(
    r"(^|\.)(mlps?|shared_mlp|ffn|feed_forward|block_sparse_moe)(\.|$)"
    r"|(^|\.)(fc2|dense_4h_to_h)$"
)


class UnknownSiteError(ValueError):
    """A site name or glob that matches no editable weight of the model."""


@dataclass(frozen=True)
class EditSite:
    """One editable weight matrix of an `nn.Module`.

    Attributes:
        name: Dotted name of the module, as in `model.named_modules()`; of the input projections of
            an `nn.MultiheadAttention`, which are no module, its name and `in_proj`.
        kind: `linear` (`nn.Linear`, stored out × in), `conv1d` (`transformers` `Conv1D`, stored in
            × out), `conv2d` (`nn.Conv2d`, stored out × in × kh × kw and seen as out × (in·kh·kw)),
            or `in_proj` (queries, keys and values of an `nn.MultiheadAttention`, stored (3·width)
            × width).
        stored_shape: Shape of the parameter as the module stores it.
    """

    name: str
    kind: Kind
    stored_shape: tuple[int, ...]

    @property
    def parameter(self) -> str:
        """Name of the parameter in the model's state dict."""
        if self.kind == "in_proj":
            return f"{self.name}_weight"
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def shape(self) -> tuple[int, int]:
        """The matrix's shape, (out, in)."""
        if self.kind == "conv1d":
            return self.stored_shape[1], self.stored_shape[0]
        rows = self.stored_shape[0]
        return rows, torch.Size(self.stored_shape).numel() // rows

    def to_matrix(self, weight: Tensor) -> Tensor:
        """See a stored weight, with any leading dimensions, as a matrix: (..., *stored_shape) ->
        (..., out, in).
        """
        if self.kind == "conv1d":
            return weight.mT
        return weight.reshape(*weight.shape[: weight.ndim - len(self.stored_shape)], *self.shape)

    def to_stored(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`: (..., out, in) -> (..., *stored_shape)."""
        if self.kind == "conv1d":
            return matrix.mT
        return matrix.reshape(*matrix.shape[:-2], *self.stored_shape)

    def __str__(self) -> str:
        return f"{self.name} ({self.shape[0]} × {self.shape[1]}, {self.kind})"


def editable_sites(model: nn.Module) -> list[EditSite]:
    """Every weight matrix of `model` that can be edited, in `named_modules` order."""
    sites = []
    for name, module in model.named_modules():
        kind = _kind(module)
        # Of a weight that is computed from others, as by weight norm, there is nothing to edit.
        if kind is not None and module._parameters.get("weight") is not None:
            sites.append(EditSite(name, kind, tuple(module.weight.shape)))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            own = f"{name}.in_proj" if name else "in_proj"
            sites.append(EditSite(own, "in_proj", tuple(module.in_proj_weight.shape)))
    return sites


def find_sites(model: nn.Module, patterns: Sequence[str]) -> tuple[EditSite, ...]:
    """The sites that names or globs (`*`, `?`, `[...]`) stand for, in the order of `patterns`,
    without repeats.

    Raises:
        UnknownSiteError: A pattern matches nothing; the message lists the nearest real sites with
            their shapes.
    """
    if not isinstance(patterns, list | tuple) or not all(
        isinstance(pattern, str) for pattern in patterns
    ):
        right = json.dumps([patterns.strip("[]") if isinstance(patterns, str) else "fc2"])
        raise UnknownSiteError(
            f"sites must be a list of names or globs, got {patterns!r}; write for example {right}"
        )
    available = editable_sites(model)
    found: dict[str, EditSite] = {}
    for pattern in patterns:
        matches = [site for site in available if fnmatch.fnmatchcase(site.name, pattern)]
        if not matches:
            raise UnknownSiteError(_unknown(pattern, available))
        found.update((site.name, site) for site in matches)
    if not found:
        raise UnknownSiteError(
            "sites is empty: name at least one site, for example "
            f"{[site.name for site in available[:3]]}"
        )
    return tuple(found.values())


class Layer(NamedTuple):
    """The numbered layer that a module lies in.

    Attributes:
        stack: Name of the list of layers.
        number: Place in that list.
    """

    stack: str
    number: int

    @property
    def name(self) -> str:
        """The layer's own name."""
        return f"{self.stack}.{self.number}"


def layer_of(name: str) -> Layer | None:
    """The layer by the first number in a module's name; None where there is no number inside it.

    Example:
        >>> layer_of("model.layers.4.mlp.down_proj")
        Layer(stack='model.layers', number=4)
    """
    match = _LAYER.match(name)
    return None if match is None else Layer(match[1], int(match[2]))


def layer_number(name: str) -> int | None:
    """The number of the layer that a module lies in, by its name; None where it is in none."""
    layer = layer_of(name)
    return None if layer is None else layer.number


def writes_to_residual(site: EditSite, width: int) -> bool:
    """Whether a site's output is added to the residual stream.

    Args:
        site: Its last name has to be one of `RESIDUAL_OUTPUTS`.
        width: Numbers in a hidden state, which the site's output must be as many as.
    """
    return site.shape[0] == width and site.name.rsplit(".", 1)[-1] in RESIDUAL_OUTPUTS


def role_of(site: EditSite, width: int) -> Role | None:
    """What a site does in a transformer's layer, by its name: it reads the hidden state for an MLP
    or for attention, or writes what these make of it back; None where the name does not tell.

    Args:
        site: The site.
        width: Numbers in a hidden state.
    """
    if layer_of(site.name) is None or site.kind == "conv2d":
        return None
    writes = writes_to_residual(site, width)
    if _ATTENTION_PATH.search(site.name):
        return "attention outputs" if writes else "attention inputs"
    if _MLP_PATH.search(site.name):
        return "mlp outputs" if writes else "mlp inputs"
    return None


def discover_sites(model: nn.Module) -> tuple[EditSite, ...]:
    """Sensible default sites for a classifier or decoder LM that was never seen before.

    A network with a stack of MLP blocks (a transformer): the MLP output projections of the
    middle-to-late third of its layers, where ROME, MEMIT and their successors edit; of a mixture of
    experts those of the experts that all tokens share, or where there are none the outputs of
    attention. Otherwise a network with hidden `nn.Linear` layers: the last hidden one. Otherwise (a
    convolutional network with one linear head): every convolution of the last stage that is larger
    than 1×1, and in place of a depthwise or grouped one the 1×1 convolution that mixes its channels
    (`image_layers` in `editgym.weights.default_sites.default_layers`). Auxiliary heads, gates,
    embeddings and projections of patches are never among them.

    Raises:
        UnknownSiteError: The model has no editable weight, or is a transformer whose MLPs and
            attention have no outputs that can be found; the message names sites that there are.
    """
    everywhere = {site.name: site for site in editable_sites(model)}
    available = [everywhere[name] for name in of_text(model, list(everywhere))]
    if not available:
        raise UnknownSiteError(
            f"{type(model).__name__} has no Linear, Conv1D or Conv2d weight to edit"
        )
    mlps, attention = _by_layer(available, _is_mlp_output), _by_layer(available, _is_in_attention)
    outputs = _by_layer(available, _is_attention_output)
    modules = [site.name for site in available if site.kind != "in_proj"]
    if len(mlps) < 2 and (blocks := block_outputs(model, modules)):
        return find_sites(model, blocks)
    if max(len(mlps), len(outputs)) >= 2:
        return tuple(everywhere[name] for name in middle_to_late(mlps, outputs))
    if len(attention) >= 2:
        among = middle_to_late(attention, {})
        raise UnknownSiteError(
            f"{type(model).__name__} has layers of attention, but neither a stack of MLPs nor"
            " outputs of attention that are given every token and could be the default, as where"
            f" experts are chosen for each token: name sites, for example sites={among[:1]}"
        )
    if layers_of_images := image_layers(model):
        return find_sites(model, layers_of_images)
    return (available[-1],)


def _kind(module: nn.Module) -> Kind | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if is_of_library(module, "transformers.pytorch_utils", "Conv1D"):
        return "conv1d"
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    return None


def _by_layer(sites: Sequence[EditSite], wanted: Callable[[str], object]) -> dict[int, list[str]]:
    """Names of the matrices that are given every token and are wanted, by the number of the
    layer.
    """
    found: dict[int, list[str]] = defaultdict(list)
    for site in sites:
        layer = layer_number(site.name)
        usable = site.kind != "conv2d" and reads_every_token(site.name)
        if layer is not None and usable and wanted(site.name):
            found[layer].append(site.name)
    return found


def _is_mlp_output(name: str) -> bool:
    return bool(_MLP_OUTPUT.search(name) and _MLP_PATH.search(name))


def _is_in_attention(name: str) -> bool:
    return bool(_ATTENTION_PATH.search(name))


def _is_attention_output(name: str) -> bool:
    return _is_in_attention(name) and name.rsplit(".", 1)[-1] in RESIDUAL_OUTPUTS


def _unknown(pattern: str, available: Sequence[EditSite]) -> str:
    names = [site.name for site in available]
    near = difflib.get_close_matches(pattern, names, n=5, cutoff=0.0)
    listing = ", ".join(str(site) for site in available if site.name in near) or "none"
    return (
        f"sites: {pattern!r} matches none of the model's {len(names)} editable weights; the nearest"
        f" are {listing}"
    )
