"""The nodes of a traced network: which an edit may change, and which the output needs."""

from __future__ import annotations

from torch import Tensor, fx


def edited_nodes(graph: fx.Graph, names: set[str]) -> set[fx.Node]:
    """The nodes that edits of the modules with these names may change."""
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


class Activations(fx.Interpreter):
    """Finds, by running it, the nodes of a graph that are tensors computed from the input."""

    def found(self, example: Tensor) -> set[str]:
        """Their names, by a run on an example."""
        self._from_input: set[fx.Node] = set()
        self._found: set[str] = set()
        self.run(example)
        return self._found

    def run_node(self, n: fx.Node) -> object:
        """Run a node, and note whether it is one of them."""
        result = super().run_node(n)
        if n.op == "placeholder" or not self._from_input.isdisjoint(n.all_input_nodes):
            self._from_input.add(n)
            if isinstance(result, Tensor):
                self._found.add(n.name)
        return result


def reached_from_output(
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
