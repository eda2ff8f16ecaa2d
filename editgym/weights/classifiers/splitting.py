"""Cut a network where the edits begin: the part no edit can change runs once, the rest runs for K
candidates.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap

from editgym.weights.classifiers.attention import attention_in_parts
from editgym.weights.classifiers.batches import is_by_sample
from editgym.weights.classifiers.graph import Activations, edited_nodes, reached_from_output
from editgym.weights.classifiers.outputs import logits_of
from editgym.weights.classifiers.replay import Replay, is_of_transformers
from editgym.weights.sites import EditSite, UnknownSiteError
from editgym.weights.stored import tied_names

_REPLAYED = 4  # inputs of the example that a large network is checked on

Prefix = Callable[[Tensor], tuple[Tensor, ...]]
Suffix = Callable[[Mapping[str, Tensor], Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class SplitNetwork:
    """A network as `suffix(tensors, prefix(inputs))`.

    Attributes:
        prefix: inputs -> tuple of activations, batch first, that no edit can change.
        suffix: Tensors in place of the network's own, by their names, and activations -> logits.
        sites: The sites, in the order of `weights`.
        reuses_prefix: False when the network could not be cut: the prefix is then the identity.
        at_once: Whether several candidates may run as one; else they run one after the other.
        above: Names of tensors that the prefix does not look at, as far as they are known.
        input_of: Name of the module whose input is the only activation, as far as it is known.
        reason: Why it could not be cut, else empty.
    """

    prefix: Prefix
    suffix: Suffix
    sites: tuple[EditSite, ...]
    reuses_prefix: bool = True
    at_once: bool = True
    above: frozenset[str] = frozenset()
    input_of: str | None = None
    reason: str = ""

    def run_suffix(self, weights: Sequence[Tensor], activations: Sequence[Tensor]) -> Tensor:
        """Logits (n, classes) of one network whose sites' matrices are `weights`, each (out,
        in).
        """
        stored = {
            site.parameter: site.to_stored(weight)
            for site, weight in zip(self.sites, weights, strict=True)
        }
        return self.suffix(stored, activations)

    def run_candidates(
        self, weights: Sequence[Tensor], activations: Sequence[Tensor], *, own: bool
    ) -> Tensor:
        """Logits (K, n, classes) of K networks whose sites' matrices are `weights`, each (K, out,
        in).

        Args:
            weights: One tensor per site.
            activations: What `prefix` returned; with `own`, one batch per candidate, (K, n, ...).
            own: Whether each candidate has activations of its own.
        """
        if len(weights[0]) == 1:
            shared = [a[0] for a in activations] if own else activations
            return self.run_suffix([w[0] for w in weights], shared).unsqueeze(0)
        if not self.at_once:
            return torch.stack(
                [
                    self.run_suffix(
                        [w[i] for w in weights], [a[i] for a in activations] if own else activations
                    )
                    for i in range(len(weights[0]))
                ]
            )
        over_activations = 0 if own else None
        with attention_in_parts(weights[0].device):
            return vmap(self.run_suffix, in_dims=(0, over_activations))(
                tuple(weights), tuple(activations)
            )


def split(model: nn.Module, sites: Sequence[EditSite], example: Tensor) -> SplitNetwork:
    """Cut `model` where the edits of `sites` begin.

    The computation graph is traced symbolically (`torch.fx`); whatever depends on no site is the
    prefix. Networks of `transformers`, which cannot be traced, are cut by hooks (`Replay`). A cut
    is kept only if, on `example`, it equals the full forward pass to 1e-5, for one network, for two
    candidates, and for some of the activations' rows in another order, and if nothing that is
    computed of a sample depends on the others.

    Args:
        model: In evaluation mode; it gives out logits.
        sites: The sites that edits may change.
        example: A batch of at least two inputs.

    Raises:
        UnknownSiteError: Two sites are one tensor: they cannot be given two matrices.
    """
    _check_apart(model, sites)
    sites, few = tuple(sites), example[:_REPLAYED]
    ways: list[tuple[Callable[..., SplitNetwork], Tensor]] = [(_cut, example)]
    if is_of_transformers(model):
        ways += [(partial(_replayed, at_once=at_once), few) for at_once in (True, False)]
    reason = ""
    for cut, seen in ways:
        try:
            candidate = cut(model, sites, seen)
            with warnings.catch_warnings():
                if cut is not _cut:
                    # What vmap would do one by one, and warn of each time, is done so from outside.
                    warnings.filterwarnings("error", message=".*batching rule")
                difference = _difference(candidate, model, seen)
                alone = _is_by_sample(candidate, model, seen) or _is_by_sample(
                    *_in_double(cut, model, sites, seen)
                )
        except Exception as error:  # of many types: fx, vmap and strangers' code refuse
            reason = f"it cannot be cut: {type(error).__name__}: {error}"
            continue
        if difference <= 1e-5 and alone:
            return candidate
        reason = (
            f"the cut changed the logits by {difference:.1e}"
            if alone
            else "what it computes of a sample depends on the others of its batch"
        )
    return SplitNetwork(
        _alone,
        partial(_called, model),
        sites,
        reuses_prefix=False,
        # What cannot be traced may branch on its data, each candidate its own way, which vmap
        # refuses.
        at_once=False,
        reason=reason,
    )


def _check_apart(model: nn.Module, sites: Sequence[EditSite]) -> None:
    tied, site_of = tied_names(model), dict[str, EditSite]()
    for site in sites:
        if site.parameter in site_of:
            raise UnknownSiteError(
                f"sites: {site_of[site.parameter].name} and {site.name} are one tensor, so that an"
                " edit of either is one of both; name one of them"
            )
        site_of |= dict.fromkeys(tied[site.parameter], site)


def _replayed(
    model: nn.Module, sites: tuple[EditSite, ...], example: Tensor, at_once: bool
) -> SplitNetwork:
    replay = Replay(model, sites, example)
    return SplitNetwork(
        replay.prefix,
        replay.suffix,
        sites,
        at_once=at_once,
        above=replay.above,
        input_of=replay.input_of,
    )


class _Tracer(fx.Tracer):
    """Takes the logits alone of an object that a network gives out, which no graph can hold."""

    def create_arg(self, a: Any) -> Any:
        """What stands for a value in the graph."""
        logits = None if isinstance(a, fx.Proxy) else getattr(a, "logits", None)
        return super().create_arg(logits if isinstance(logits, fx.Proxy) else a)


def _cut(model: nn.Module, sites: tuple[EditSite, ...], example: Tensor) -> SplitNetwork:
    graph = _Tracer().trace(model)
    edited = edited_nodes(graph, {site.name for site in sites})
    if not any(node.op == "output" and node in edited for node in graph.nodes):
        raise ValueError("no site lies on the way from the input to the output")
    activations = Activations(fx.GraphModule(model, graph)).found(example)
    # Parameters, sizes and tuples cannot be gathered by row: the suffix makes its own from the
    # activations.
    repeated = {node for node in graph.nodes if node.name not in activations}
    needed, boundary = reached_from_output(graph, edited | repeated)
    prefix_graph, suffix_graph = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in edited and node.op != "output":
            copied[node] = prefix_graph.node_copy(node, copied.__getitem__)
    prefix_graph.output(tuple(copied[node] for node in boundary))
    copied = {node: suffix_graph.placeholder(f"boundary_{i}") for i, node in enumerate(boundary)}
    for node in graph.nodes:
        if node in needed:
            copied[node] = suffix_graph.node_copy(node, copied.__getitem__)
    prefix = fx.GraphModule(model, prefix_graph)
    prefix.graph.eliminate_dead_code()
    prefix.recompile()
    return SplitNetwork(prefix, partial(_called, fx.GraphModule(model, suffix_graph)), sites)


def _alone(inputs: Tensor) -> tuple[Tensor]:
    """The identity as a prefix: nothing is reused."""
    return (inputs,)


def _called(
    module: nn.Module, tensors: Mapping[str, Tensor], activations: Sequence[Tensor]
) -> Tensor:
    """A module's logits with some of its tensors replaced: what a suffix is."""
    return logits_of(functional_call(module, dict(tensors), tuple(activations)))


@torch.no_grad()
def _difference(candidate: SplitNetwork, model: nn.Module, example: Tensor) -> float:
    """Largest relative deviation of the cut network from the full forward pass, for weights as they
    are and scaled.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    base = [site.to_matrix(parameters[site.parameter]) for site in candidate.sites]
    pairs = [torch.stack([weight, 0.5 * weight]) for weight in base]
    activations = candidate.prefix(example)
    together = candidate.run_candidates(pairs, activations, own=False)
    rows = torch.arange(len(example) - 1, 0, -1, device=example.device)
    own = candidate.run_candidates(
        pairs, [torch.stack([a[rows], a[rows]]) for a in activations], own=True
    )
    differences = []
    for i, factor in enumerate((1.0, 0.5)):
        weights = {site.parameter: factor * parameters[site.parameter] for site in candidate.sites}
        full = functional_call(model, weights, (example,))
        alone = candidate.run_suffix([pair[i] for pair in pairs], activations)
        scale = full.abs().max().clamp_min(1.0)
        differences += [
            (logits - expected).abs().max() / scale
            for logits, expected in ((alone, full), (together[i], full), (own[i], full[rows]))
        ]
    return float(torch.stack(differences).max())


def _is_by_sample(candidate: SplitNetwork, model: nn.Module, example: Tensor) -> bool:
    """Whether the network, its prefix, and both parts together treat every sample alone."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = [site.to_matrix(parameters[site.parameter]) for site in candidate.sites]

    def results(inputs: Tensor) -> tuple[Tensor, ...]:
        activations = candidate.prefix(inputs)
        logits = candidate.run_suffix(weights, activations)
        return (logits_of(model(inputs)), logits, *activations)

    return is_by_sample(results, example)


def _in_double(
    cut: Callable[..., SplitNetwork], model: nn.Module, sites: tuple[EditSite, ...], example: Tensor
) -> tuple[SplitNetwork, nn.Module, Tensor]:
    """A cut in double precision, its network and the example: there are deep networks that make
    much of the rounding of single precision, which is another in other batches.
    """
    wide = copy.deepcopy(model).double()
    seen = example.double() if example.is_floating_point() else example
    return cut(wide, sites, seen), wide, seen


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode whose parameters take no gradient: the base that edits
    leave alone.
    """
    return copy.deepcopy(model).eval().requires_grad_(False)
