"""The layers of a language model, and forward passes that begin or end in the middle of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.weights.sites import EditSite

_LAYER = re.compile(r"^(.*?)\.(\d+)\.")


class Reached(Exception):
    """Ends a forward pass that has come as far as it is needed."""


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
        """Those of several batches, all at one layer, as that of the joined batch: padded to one
        length.
        """
        longest = max(one.activations.shape[1] for one in prefixes)
        return cls(
            torch.cat(
                [
                    F.pad(one.activations, (0, 0, 0, longest - one.activations.shape[1]))
                    for one in prefixes
                ]
            ),
            prefixes[0].layer,
        )


class LayerStack:
    """The list of layers that all of a decoder's sites lie in; where there is no such list, nothing
    can be skipped.

    Args:
        model: Of `transformers`.
        sites: Its sites.
    """

    def __init__(self, model: nn.Module, sites: Sequence[EditSite]) -> None:
        found = {site.name: _LAYER.match(site.name) for site in sites}
        lists = {match.group(1) if match else None for match in found.values()}
        one = lists.pop() if len(lists) == 1 else None
        layers = None if one is None else model.get_submodule(one)
        self._layers: Any = layers if isinstance(layers, nn.ModuleList) else None
        self._of = {name: int(match.group(2)) for name, match in found.items() if match}
        self._tuples = False  # whether layers give out tuples

    def first(self, names: Iterable[str]) -> int:
        """The lowest layer with one of these sites; 0 where layers cannot be skipped."""
        return 0 if self._layers is None else min((self._of[name] for name in names), default=0)

    @property
    def ends(self) -> list[str]:
        """A site of the lowest layer that has one, and one of the highest."""
        return (
            []
            if self._layers is None
            else [end(self._of, key=self._of.__getitem__) for end in (min, max)]
        )

    def give_up(self) -> None:
        """Skip no layers from here on."""
        self._layers = None

    @torch.no_grad()
    def prefix(self, layer: int, run: Callable[[], object]) -> Prefix:
        """What goes into a layer above the lowest when `run` calls the model; the pass ends
        there.
        """
        seen: list[Tensor] = []

        def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._tuples = isinstance(output, tuple)

        def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])
            raise Reached

        with reached(
            self._layers[0].register_forward_hook(look),
            self._layers[layer].register_forward_pre_hook(stop),
        ):
            run()
        return Prefix(seen[0], layer)

    @contextmanager
    def starting_at(self, prefix: Prefix | None) -> Iterator[None]:
        """Skip the layers below: each gives out the prefix, and does not look at what it is
        given.
        """
        if prefix is None:
            yield
            return
        given = partial(_given, (prefix.activations,) if self._tuples else prefix.activations)
        with forwards([(self._layers[index], given) for index in range(prefix.layer)]):
            yield


@contextmanager
def reached(*handles: Any) -> Iterator[None]:
    """A pass that one of these hooks may end by `Reached`; afterwards they are gone."""
    try:
        yield
    except Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def forwards(replaced: Sequence[tuple[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Give modules other forwards; afterwards they have the ones of before, be they of their class
    or a hook's.
    """
    before = [module.__dict__.get("forward") for module, _ in replaced]
    try:
        for module, forward in replaced:
            module.forward = forward
        yield
    finally:
        for (module, _), own in zip(replaced, before, strict=True):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = own


def _given(output: Any, *_: Any, **__: Any) -> Any:
    """A layer's forward that gives out `output`."""
    return output
