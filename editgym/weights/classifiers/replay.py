"""Cut a network of `transformers` at the input of its first site, without its graph.

Such a network's code cannot be traced, but it is made of modules. What these have given out by the
time that the first site is called is recorded, and so is that site's input. A pass that begins
there runs the same code, in which every module that was done gives out again what it gave out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_unflatten

from editgym.imports import is_pretrained_model
from editgym.weights.classifiers.dependence import what_matters
from editgym.weights.classifiers.recording import CannotReplay, LeafShape, Pass, Recorder
from editgym.weights.hooks import hooked
from editgym.weights.sites import EditSite

_PLAIN = (type(None), bool, int, float, str)
_ROUNDING = 1e-4  # relative; products of other shapes round otherwise


def is_of_transformers(model: nn.Module) -> bool:
    """Whether a network is a model of `transformers`, or is made around one.

    Other code may branch on its data; that of `transformers` looks at masks alone, to leave out
    those that mask nothing.
    """
    return any(is_pretrained_model(module) for module in model.modules())


class Replay:
    """A network of `transformers` as `suffix(tensors, prefix(inputs))`.

    Attributes:
        above: Names of the tensors of the state dict that only modules called from the cut on hold.
        input_of: Name of the site whose input is all that the prefix gives; None where it gives
            more.

    Args:
        model: In evaluation mode, frozen.
        sites: Where it may be edited.
        example: A batch of at least two inputs.

    Raises:
        CannotReplay: It cannot be cut.
    """

    def __init__(self, model: nn.Module, sites: Sequence[EditSite], example: Tensor) -> None:
        self._model, self._sites = model, sites
        whole, part = self._recorded(example), self._recorded(example[:-1])
        self._modules, self._form = whole.modules, whole.form
        self._check_alike(part)
        self._shapes = {
            place: LeafShape.of(own, other, len(example))
            for place, (own, other) in enumerate(zip(whole.leaves, part.leaves, strict=True))
            if isinstance(own, Tensor)
        }
        # What several modules hand on is kept once, under its first place.
        first = {id(own): place for place, own in reversed(list(enumerate(whole.leaves)))}
        self._place = [first[id(own)] for own in whole.leaves]
        begun: set[str] = set()
        matters = self._what_matters(whole.leaves, begun)
        self._kept = [place for place in matters if self._shapes[place].per_sample is not None]
        self._constant = {
            place: leaf
            for place, leaf in enumerate(whole.leaves)
            if place not in self._shapes or (place in matters and place not in self._kept)
        }
        self._check_by_sample(whole, part)
        only_input = self._kept == self._place[-1:] and self._shapes[self._kept[0]].per_sample == 1
        self.input_of = self._modules[-1] if only_input else None
        self.above = frozenset(
            f"{name}.{own}" for name in begun - whole.begun for own in _own_tensors(model, name)
        )

    def prefix(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What is kept of a pass, batch first.

        Raises:
            CannotReplay: Modules are called otherwise than for the example, or give out other
                shapes.
        """
        found = self._recorded(inputs)
        self._check_alike(found)
        for place in self._kept:
            one, expected = found.leaves[place].shape[1:], self._shapes[place].example.shape[1:]
            if one != expected:
                raise CannotReplay(
                    f"for inputs {tuple(inputs.shape)} a module gives out {tuple(one)} for each"
                    f" sample, and {tuple(expected)} was expected, as for the example"
                )
        return tuple(self._shapes[place].by_sample(found.leaves[place]) for place in self._kept)

    def suffix(self, tensors: Mapping[str, Tensor], activations: Sequence[Tensor]) -> Tensor:
        """The network's output from the cut on, with these tensors in place of its own.

        Args:
            tensors: By their names in the state dict, as the modules store them.
            activations: From `prefix`, or rows of it.
        """
        kept = dict(zip(self._kept, activations, strict=True))
        samples = len(activations[0])
        leaves = []
        for place in self._place:
            if place in kept:
                leaves.append(self._shapes[place].as_it_was(kept[place]))
            elif place in self._constant:
                leaves.append(_copy(self._constant[place]))
            else:
                leaves.append(self._shapes[place].zeros(samples))
        return self._run(tensors, leaves)

    # --- inside -----------------------------------------------------------------------------------

    def _recorded(self, inputs: Tensor) -> Pass:
        return Recorder(self._sites).follow(self._model, inputs)

    def _check_alike(self, other: Pass) -> None:
        if (other.modules, other.form) != (self._modules, self._form):
            raise CannotReplay("its modules are called otherwise for another batch")

    def _check_by_sample(self, whole: Pass, part: Pass) -> None:
        """Refuse a network in which what is kept of a sample depends on the others, by a pass over
        all but the last one.
        """
        same = [_same(leaf, part.leaves[place]) for place, leaf in self._constant.items()]
        for place in self._kept:
            shape = self._shapes[place]
            own, other = (shape.by_sample(one.leaves[place]) for one in (whole, part))
            same.append(_close(own[:-1], other))
        if not all(same):
            raise CannotReplay("what modules give out for a sample depends on the others")

    def _what_matters(self, leaves: Sequence[Any], begun: set[str]) -> list[int]:
        """First places of the tensors that the output depends on; names of the modules that are
        called are added to `begun`.
        """
        copies = [_copy(leaf) for leaf in leaves]
        given = [copies[place] for place in self._place]
        look = [
            (module, partial(_note, begun, name)) for name, module in self._model.named_modules()
        ]
        with hooked(before=look):
            found = what_matters(lambda: self._run({}, given), given)
        return sorted({self._place[place] for place in found})

    def _run(self, tensors: Mapping[str, Tensor], leaves: list[Any]) -> Tensor:
        whole, *values = tree_unflatten(leaves, self._form)
        waiting: dict[str, deque[Any]] = {name: deque() for name in self._modules}
        for name, value in zip(self._modules, values, strict=True):
            waiting[name].append(value)
        site = self._modules[-1]
        instead: list[tuple[nn.Module, Callable[..., Any]]] = []
        for name, own in waiting.items():
            module = self._model.get_submodule(name)
            replaced = _fed if name == site else _replayed
            instead.append((module, partial(replaced, module.forward, own)))
        with hooked(instead=instead):
            return functional_call(self._model, dict(tensors), (whole,))


def _replayed(forward: Callable[..., Any], outputs: deque[Any], *inputs: Any, **more: Any) -> Any:
    """A module's forward that gives out what was recorded, and runs once there is no more."""
    return outputs.popleft() if outputs else forward(*inputs, **more)


def _fed(forward: Callable[..., Any], inputs: deque[Any], own: Any, *more: Any) -> Any:
    """The first site's forward, which at first takes the input that was recorded."""
    return forward(inputs.popleft() if inputs else own, *more)


def _note(begun: set[str], name: str, _inputs: tuple[Any, ...]) -> None:
    begun.add(name)


def _own_tensors(model: nn.Module, name: str) -> list[str]:
    """Names of the parameters and buffers that a module has itself."""
    module = model.get_submodule(name)
    tensors = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return [own for own, _ in tensors]


def _copy(leaf: Any) -> Any:
    """A leaf that may be written to; None for what is neither tensor nor number nor text."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    return leaf if isinstance(leaf, _PLAIN) else None


def _same(leaf: Any, other: Any) -> bool:
    if isinstance(leaf, Tensor):
        return torch.equal(leaf, other)
    return bool(_copy(leaf) == _copy(other))


def _close(own: Tensor, other: Tensor) -> bool:
    """Whether tensors are the same but for rounding."""
    if not own.is_floating_point():
        return torch.equal(own, other)
    return bool((own - other).abs().max() <= _ROUNDING * own.abs().max().clamp_min(1.0))
