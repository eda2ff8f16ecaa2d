"""The layers of a language model, and forward passes that begin or end in the middle of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from editgym.weights.hooks import Reached, hooked
from editgym.weights.sites import EditSite, layer_of


def below_head(model: Any) -> Any:
    """A causal language model without its head: what makes token ids into hidden states."""
    if model.base_model is not model:
        return model.base_model
    # Some models, such as Llama 4 of text, name as their base what they do not have.
    embeddings = model.get_input_embeddings()
    return next(
        child for child in model.children() if any(part is embeddings for part in child.modules())
    )


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

    def part(self, every: int, start: int, stop: int | None) -> Prefix:
        """Some tokens of every so many-th text."""
        return Prefix(self.activations[::every, start:stop], self.layer)

    def take(self, texts: Sequence[int], length: int) -> Prefix:
        """Some of the texts, as far as `length` tokens."""
        return Prefix(self.activations[list(texts), :length], self.layer)

    @classmethod
    def join(cls, prefixes: Sequence[Prefix]) -> Prefix:
        """The joined batch's prefix from those of its parts, all at one layer: padded to one
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
        model: A `transformers` model.
        sites: The model's sites.
    """

    def __init__(self, model: nn.Module, sites: Sequence[EditSite]) -> None:
        found = {site.name: layer_of(site.name) for site in sites}
        lists = {layer.stack if layer else None for layer in found.values()}
        one = lists.pop() if len(lists) == 1 else None
        layers = None if one is None else model.get_submodule(one)
        self._layers: Any = layers if isinstance(layers, nn.ModuleList) else None
        self._of = {name: layer.number for name, layer in found.items() if layer}
        self._model = model
        self._tuples: bool  # whether layers give out tuples, known once a prefix was made

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

    @cached_property
    def bytes(self) -> int:
        """What the model's parameters take."""
        return sum(one.numel() * one.element_size() for one in self._model.parameters())

    @cached_property
    def widths(self) -> list[int]:
        """How many numbers the linear maps of every layer take in and give out for a token, of
        experts in one tensor those of one; of all layers together where there is no list of them.
        """
        layers = [self._model] if self._layers is None else self._layers
        return [
            sum(sum(one.shape[-2:]) for one in layer.parameters() if one.ndim > 1)
            for layer in layers
        ]

    def give_up(self) -> None:
        """Skip no layers from here on."""
        self._layers = None

    @torch.no_grad()
    def prefix(self, layer: int, run: Callable[[], object]) -> Prefix:
        """What goes into a layer above the lowest when `run` calls the model; the pass ends
        there.
        """
        seen: list[Tensor] = []

        def look(_inputs: Any, output: Any) -> None:
            self._tuples = isinstance(output, tuple)

        def stop(inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])
            raise Reached

        with hooked(before=[(self._layers[layer], stop)], after=[(self._layers[0], look)]):
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
        with hooked(instead=[(self._layers[index], given) for index in range(prefix.layer)]):
            yield


def _given(output: Any, *_: Any, **__: Any) -> Any:
    """A layer's forward that gives out `output`."""
    return output
