"""What the sites of a network see of some data: what lies beneath them is computed once."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from editgym.data.images import Labelled
from editgym.weights import EditableNetwork

# Numbers of the inputs to the first edited layer; what a transformer keeps for its gradient is some
# thirty times as much.
_NUMBERS_IN_ONE_GRAPH = 1 << 24


class Seen:
    """What a network's sites see of some data, and its labels.

    Activations that would fill the memory are computed anew for each piece.

    Args:
        network: Whose sites are edited.
        data: What the network takes, with labels.
    """

    def __init__(self, network: EditableNetwork, data: Labelled) -> None:
        self._network, self._data = network, data
        self._held = network.held(data.inputs)

    def __len__(self) -> int:
        return len(self._data)

    def pieces(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Activations and labels, so many samples at a time as one graph may hold."""
        rows = max(1, _NUMBERS_IN_ONE_GRAPH // self._network.numbers)
        labels = self._data.labels.split(rows)
        if self._held is None:
            parts = map(self._network.activations, self._data.inputs.split(rows))
            return zip(parts, labels, strict=True)
        columns = (column.split(rows) for column in self._held)
        return zip(zip(*columns, strict=True), labels, strict=True)

    def batch(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The activations of some rows."""
        if self._held is None:
            return self._network.activations(self._data.inputs[rows])
        return tuple(column[rows] for column in self._held)
