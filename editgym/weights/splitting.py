"""Cut a network where the edits begin: the part no edit can change runs once, the rest runs for K
candidates.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap

from editgym.weights.attention import attention_in_parts
from editgym.weights.sites import EditSite


@dataclass(frozen=True)
class SplitNetwork:
    """A network as `suffix(weights, prefix(inputs))`.

    Attributes:
        prefix: inputs -> tuple of activations, batch first, that no edit can change.
        suffix: activations -> logits; holds every edited site.
        sites: The sites, in the order of `weights`.
        reuses_prefix: False when the network could not be cut: the prefix is then the identity.
        reason: Why it could not be cut, else empty.
    """

    prefix: nn.Module
    suffix: nn.Module
    sites: tuple[EditSite, ...]
    reuses_prefix: bool
    reason: str = ""

    def run_suffix(self, weights: Sequence[Tensor], activations: Sequence[Tensor]) -> Tensor:
        """Logits (n, classes) of one network whose sites' matrices are `weights`, each (out,
        in).
        """
        stored = {
            site.parameter: site.to_stored(weight)
            for site, weight in zip(self.sites, weights, strict=True)
        }
        return functional_call(self.suffix, stored, tuple(activations))

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
        if not self.reuses_prefix:
            # What cannot be traced may branch on its data, each candidate its own way, which vmap
            # refuses.
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


class _Whole(nn.Module):
    """The identity as a prefix: nothing is reused."""

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        return (inputs,)


def split(model: nn.Module, sites: Sequence[EditSite], example: Tensor) -> SplitNetwork:
    """Cut `model` where the edits of `sites` begin.

    The computation graph is traced symbolically (`torch.fx`); whatever depends on no site is the
    prefix. The cut is kept only if, on `example`, it equals the full forward pass to 1e-5, for one
    network, for two candidates, and for some of the activations' rows in another order.

    Args:
        model: In evaluation mode.
        sites: The sites that edits may change.
        example: A batch of at least two inputs.
    """
    sites = tuple(sites)
    whole = SplitNetwork(_Whole(), model, sites, reuses_prefix=False)
    try:
        candidate = _cut(model, sites, example)
        difference = _difference(candidate, model, example)
    except Exception as error:  # fx and vmap refuse what they cannot do with many exception types
        return SplitNetwork(
            whole.prefix, model, sites, False, f"it cannot be cut: {type(error).__name__}: {error}"
        )
    if not difference <= 1e-5:
        return SplitNetwork(
            whole.prefix, model, sites, False, f"the cut changed the logits by {difference:.1e}"
        )
    return candidate


def _cut(model: nn.Module, sites: tuple[EditSite, ...], example: Tensor) -> SplitNetwork:
    graph = fx.Tracer().trace(model)
    edited = _edited_nodes(graph, {site.name for site in sites})
    if not any(node.op == "output" and node in edited for node in graph.nodes):
        raise ValueError("no site lies on the way from the input to the output")
    activations = _Activations(fx.GraphModule(model, graph)).found(example)
    # Parameters, sizes and tuples cannot be gathered by row: the suffix makes its own from the
    # activations.
    repeated = {node for node in graph.nodes if node.name not in activations}
    needed, boundary = _reached_from_output(graph, edited | repeated)
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
    return SplitNetwork(prefix, fx.GraphModule(model, suffix_graph), sites, True)


def _edited_nodes(graph: fx.Graph, names: set[str]) -> set[fx.Node]:
    edited: set[fx.Node] = set()
    for node in graph.nodes:
        target = str(node.target)
        own = node.op in ("call_module", "get_attr") and any(
            name == target or name.startswith(f"{target}.") or target.startswith(f"{name}.")
            for name in names
        )
        if own or any(parent in edited for parent in node.all_input_nodes):
            edited.add(node)
    return edited


class _Activations(fx.Interpreter):
    """Finds, by running it, the nodes of a graph that are tensors computed from the input."""

    def found(self, example: Tensor) -> set[str]:
        self._from_input: set[fx.Node] = set()
        self._found: set[str] = set()
        self.run(example)
        return self._found

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if n.op == "placeholder" or not self._from_input.isdisjoint(n.all_input_nodes):
            self._from_input.add(n)
            if isinstance(result, Tensor):
                self._found.add(n.name)
        return result


def _reached_from_output(
    graph: fx.Graph, suffix: set[fx.Node]
) -> tuple[set[fx.Node], list[fx.Node]]:
    """The nodes of `suffix` that the output needs, and those before them that it needs of the
    prefix.
    """
    reached: set[fx.Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += node.all_input_nodes if node in suffix else []
    return reached & suffix, [node for node in graph.nodes if node in reached - suffix]


@torch.no_grad()
def _difference(candidate: SplitNetwork, model: nn.Module, example: Tensor) -> float:
    """Largest relative deviation of the cut network from the full forward pass, for weights as they
    are and scaled.
    """
    parameters = dict(model.named_parameters())
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


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode whose parameters take no gradient: the base that edits
    leave alone.
    """
    return copy.deepcopy(model).eval().requires_grad_(False)
