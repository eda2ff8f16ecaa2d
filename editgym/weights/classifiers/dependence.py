"""Which tensors a result depends on, found by following a computation operation by operation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations whose results have a tensor's shape and nothing of its values.
_MAKERS = frozenset(
    f"aten::{name}{ending}"
    for name in ("zeros", "ones", "empty", "full", "rand", "randn")
    for ending in ("_like",)
) | frozenset(f"aten::new_{name}" for name in ("zeros", "ones", "empty", "full", "empty_strided"))


def what_matters(compute: Callable[[], Tensor], given: Sequence[Any]) -> frozenset[int]:
    """The places in `given` of the tensors that a result depends on.

    Shapes do not count, and whatever code reads out of a tensor into Python, to decide what to do
    next, does. Tensors that share memory are taken for one.

    Args:
        compute: Makes the result from the tensors in `given`.
        given: Tensors, and whatever else there is between them.
    """
    with torch.no_grad(), _Following() as following:
        for place, one in enumerate(given):
            if isinstance(one, Tensor):
                following.begin(one, place)
        result = compute()
        return frozenset(following.read | following.sources(result))


class _Following(TorchDispatchMode):
    """Keeps for every memory the places of the tensors that its contents come from.

    Attributes:
        read: Places whose values Python has seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()
        self._sources: defaultdict[int, set[int]] = defaultdict(set)
        self._seen: list[Tensor] = []  # they stay, or their memory would be another tensor's next

    def begin(self, tensor: Tensor, place: int) -> None:
        """Follow a tensor under the number `place`."""
        self._sources[_memory(tensor)].add(place)
        self._seen.append(tensor)

    def sources(self, tensor: Tensor) -> set[int]:
        """The places that a tensor's contents come from."""
        return self._sources[_memory(tensor)]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Carry an operation out, and pass on where its inputs come from."""
        result = func(*args, **(kwargs or {}))
        if func._schema.name in _MAKERS:
            sources: set[int] = set()
        else:
            sources = set().union(*map(self.sources, _tensors((args, kwargs))))
        made = _tensors(result)
        if not made:
            self.read |= sources
        for tensor in made:
            self._sources[_memory(tensor)] |= sources
            self._seen.append(tensor)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
