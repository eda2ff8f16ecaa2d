"""How data flow through a network: which layers they pass, at which resolution, and where they are
pooled. Nothing is computed; a network on the device `meta` will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn

_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_POOL_FUNCTIONS = ("max_pool2d", "avg_pool2d")
_GLOBAL_FUNCTIONS = ("adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax")


@dataclass(frozen=True)
class Step:
    """What a network does at one place.

    Attributes:
        uses: Name of the module or tensor that is used there; empty where there is none.
        inputs: Places of the steps whose results are taken in.
        stride: How many times coarser a map becomes, along one side.
        pools: Whether whole maps become one number each.
    """

    uses: str
    inputs: tuple[int, ...]
    stride: int = 1
    pools: bool = False


@dataclass(frozen=True)
class Flow:
    """The steps of a network in their order: the first is its input, the last its output."""

    steps: tuple[Step, ...]

    @cached_property
    def scales(self) -> tuple[int, ...]:
        """How many times coarser than the input a step's result is, along one side."""
        scales: list[int] = []
        for step in self.steps:
            scales.append(max((scales[i] for i in step.inputs), default=1) * step.stride)
        return tuple(scales)

    @cached_property
    def followers(self) -> tuple[tuple[int, ...], ...]:
        """Places of the steps on the way to the output that take in a step's result; a step that
        has none, and is not the output, is on no way there.
        """
        followers: list[list[int]] = [[] for _ in self.steps]
        last = len(self.steps) - 1
        for place in range(last, -1, -1):
            if place == last or followers[place]:
                for other in self.steps[place].inputs:
                    followers[other].append(place)
        return tuple(tuple(reversed(found)) for found in followers)

    @cached_property
    def gates(self) -> frozenset[int]:
        """Places of the steps between a pooled map and what it is put together with again, such as
        those of a squeeze-and-excitation block.
        """
        varies, pooled = [True], [False]  # with the input; nothing but pooled maps comes in
        for step in self.steps[1:]:
            coming = [i for i in step.inputs if varies[i]]
            varies.append(bool(coming))
            pooled.append(bool(coming) and (step.pools or all(pooled[i] for i in coming)))
        gates: set[int] = set()
        for place in range(len(self.steps) - 1, -1, -1):
            if pooled[place] and any(i in gates or not pooled[i] for i in self.followers[place]):
                gates.add(place)
        return frozenset(gates)

    def places_of(self, module: str, tensor: str = "") -> list[int]:
        """The steps, on the way to the output, that use a module, one that it is inside of, or the
        tensor.
        """
        return [
            place
            for place, step in enumerate(self.steps)
            if step.uses
            and (step.uses in (module, tensor) or module.startswith(f"{step.uses}."))
            and self.followers[place]
        ]


def flow_of(model: nn.Module) -> Flow:
    """The flow of a network in evaluation mode.

    It is traced symbolically (`torch.fx`). What cannot be traced is taken as a chain of its layers
    in the order in which they were registered, where layers that hang on a pool inside a module of
    their own are beside the chain.
    """
    try:
        with _evaluating(model):
            graph = fx.Tracer().trace(model)
    except Exception:  # fx refuses what it cannot do with many exception types
        return Flow(tuple(_chained(model)))
    places = {node: place for place, node in enumerate(graph.nodes)}
    modules = dict(model.named_modules())
    steps = []
    for node in graph.nodes:
        inputs = tuple(places[other] for other in node.all_input_nodes)
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if module is not None:
            step = _step(str(node.target), module, inputs)
        elif node.op == "get_attr":
            step = Step(str(node.target), inputs)
        else:
            step = Step("", inputs, *_of_function(node))
        steps.append(step)
    return Flow(tuple(steps))


def _step(name: str, module: nn.Module, inputs: tuple[int, ...]) -> Step:
    stride = _largest(module.stride) if isinstance(module, _STRIDED) else 1
    pools = isinstance(module, _POOLS) and _largest(module.output_size) == 1
    return Step(name, inputs, stride, pools)


def _of_function(node: fx.Node) -> tuple[int, bool]:
    """Stride of what a function or method does, and whether it pools."""
    if node.op not in ("call_function", "call_method"):
        return 1, False
    name = getattr(node.target, "__name__", str(node.target))
    given = dict(zip(("input", "size", "stride"), node.args, strict=False)) | dict(node.kwargs)
    if name in _GLOBAL_FUNCTIONS:
        sizes = given.get("output_size", given.get("size", 1))
        return 1, not name.startswith("adaptive") or _largest(sizes) == 1
    if name not in _POOL_FUNCTIONS:
        return 1, False
    stride = given.get("stride") or given.get("kernel_size", given.get("size"))
    # A window that is only known when there is an input is the whole map.
    return (_largest(stride), False) if _is_known(stride) else (1, True)


def _is_known(size: object) -> bool:
    values = size if isinstance(size, Sequence) else [size]
    return all(isinstance(value, int) for value in values)


def _largest(size: object) -> int:
    """The largest of one or several sizes; 0 where there is none that is known."""
    values = size if isinstance(size, Sequence) else [size]
    return max((value for value in values if isinstance(value, int)), default=0)


def _chained(model: nn.Module) -> Iterator[Step]:
    yield Step("", ())
    done, pool = "", ("", 0)
    previous = place = 0
    for name, module in model.named_modules():
        is_whole = isinstance(module, nn.MultiheadAttention) or not list(module.children())
        if not is_whole or (done and name.startswith(f"{done}.")):
            continue
        if pool[0] and not name.startswith(pool[0]):
            previous, pool = pool[1], ("", 0)
        step = _step(name, module, (previous,))
        yield step
        if step.pools and not pool[0] and "." in name:
            pool = (name.rpartition(".")[0] + ".", previous)
        place += 1
        previous, done = place, name
    yield Step("", (previous,))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the mode that it was in."""
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training
