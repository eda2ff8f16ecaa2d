"""What the modules of a network have given out by the time that its first site is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten

from editgym.weights.hooks import Reached, hooked
from editgym.weights.sites import EditSite


class CannotReplay(ValueError):
    """A network that gives out other things, or in another order, than it did on the example."""


class Pass(NamedTuple):
    """A pass that ended where the first site was called.

    Attributes:
        modules: The outermost modules that were done, in order, and last the site.
        leaves: The network's input, what these modules gave out, and the site's input, taken apart:
            tensors, and what else is among them.
        form: How the leaves are put together.
        begun: All modules that had been called by then.
    """

    modules: tuple[str, ...]
    leaves: list[Any]
    form: TreeSpec
    begun: frozenset[str]


class Recorder:
    """Follows a pass to the call of the first site."""

    def __init__(self, sites: Sequence[EditSite]) -> None:
        self._sites = {site.name for site in sites}
        self._begun: set[str] = set()
        self._open: list[list[tuple[str, Any]]] = [[]]  # what was done inside each module in work
        self._found: Pass | None = None

    @torch.no_grad()
    def follow(self, model: nn.Module, inputs: Tensor) -> Pass:
        """Run a model on inputs to where a site is called.

        Raises:
            CannotReplay: No site is called.
        """
        named = list(model.named_modules())
        before = [(module, partial(self._begins, name, inputs)) for name, module in named]
        after = [(module, partial(self._ends, name)) for name, module in named]
        with hooked(before, after):
            model(inputs)
        if self._found is None:
            raise CannotReplay("no site lies on the way from the input to the output")
        return self._found

    def _begins(self, name: str, whole: Tensor, inputs: tuple[Any, ...]) -> None:
        if name in self._sites:
            done = [*chain.from_iterable(self._open), (name, inputs[0])]
            modules, values = zip(*done, strict=True)
            leaves, form = tree_flatten([whole, *values])
            self._found = Pass(modules, leaves, form, frozenset(self._begun))
            raise Reached
        self._begun.add(name)
        self._open.append([])

    def _ends(self, name: str, _inputs: tuple[Any, ...], output: Any) -> None:
        self._open.pop()
        self._open[-1].append((name, output))


@dataclass(frozen=True)
class LeafShape:
    """The shape of one of a pass's tensors for any number of samples.

    Attributes:
        example: The example's tensor.
        per_sample: How many of its rows belong to one sample; None where it has one shape whatever
            the number.
    """

    example: Tensor
    per_sample: int | None

    @classmethod
    def of(cls, whole: Tensor, part: Tensor, samples: int) -> LeafShape:
        """The shape of a tensor that is `whole` for so many samples and `part` for one less."""
        if whole.shape == part.shape:
            return cls(whole, None)
        rows = len(whole) - len(part)
        if len(whole) != rows * samples or whole.shape[1:] != part.shape[1:]:
            raise CannotReplay(
                f"a module gives out {tuple(whole.shape)} for {samples} samples and "
                f"{tuple(part.shape)} for one less, which are not so many rows for each"
            )
        return cls(whole, rows)

    def by_sample(self, tensor: Tensor) -> Tensor:
        """The tensor with samples first, (n, ...), whatever the number of its rows for each."""
        rows = self.per_sample
        return tensor if rows is None or rows == 1 else tensor.unflatten(0, (-1, rows))

    def as_it_was(self, kept: Tensor) -> Tensor:
        """The inverse of `by_sample`; a copy, because code may write to what it is given."""
        return (kept if self.per_sample in (None, 1) else kept.flatten(0, 1)).clone()

    def zeros(self, samples: int) -> Tensor:
        """Zeros of that shape, which take no memory."""
        rows = () if self.per_sample is None else (samples * self.per_sample,)
        shape = (*rows, *self.example.shape[len(rows) :])
        return self.example.new_zeros(()).expand(shape)
