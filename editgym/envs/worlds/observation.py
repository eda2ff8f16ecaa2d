"""What an agent sees: the current weights of the edited sites, or a random projection of them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from editgym.envs.sketch import CountSketch
from editgym.weights import EditableNetwork


class WeightObserver:
    """Weights -> observation, float32, clipped to ±bound.

    Up to `max_raw` numbers the weights themselves, sites in order, each in C order. Above, their
    `CountSketch` of `projection_size` numbers. Where there is nothing to observe, one constant, for
    no client takes an empty observation.

    Attributes:
        bound: Limit of every observed number.
        size: Numbers of an observation.
        blank: Whether there is nothing to observe.
        space: Gymnasium's space of one observation.

    Args:
        shapes: (out, in) of every site.
        bound: Limit of every observed number.
        max_raw: How many weights are shown as they are.
        projection_size: Numbers shown above that.
        n_features: Numbers in 0–1 (the task's goal) appended at the end.
        device: Where the weights live.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        bound: float,
        max_raw: int,
        projection_size: int,
        n_features: int,
        device: torch.device,
    ) -> None:
        self.bound = bound
        weights = sum(rows * columns for rows, columns in shapes)
        self._sketch = CountSketch(weights, projection_size, device) if weights > max_raw else None
        self._seen = projection_size if weights > max_raw else weights
        self.blank = self._seen + n_features == 0
        self.size = 1 if self.blank else self._seen + n_features
        self.space = spaces.Box(-bound, bound, (self.size,), np.float32)

    def __call__(self, weights: Sequence[Tensor], features: Tensor | None = None) -> Tensor:
        """Observations (K, size) of K candidates.

        Args:
            weights: (K, out, in) per site; none where only features are observed.
            features: (K, n_features) or None.
        """
        if not weights:
            assert features is not None
            return features.clamp(-self.bound, self.bound)
        flat = torch.cat([weight.flatten(1) for weight in weights], dim=1).float()
        if self._sketch is not None:
            flat = self._sketch(flat)
        seen = flat if features is None else torch.cat([flat, features], dim=1)
        return seen.clamp(-self.bound, self.bound)

    def constant(self, count: int) -> NDArray[np.float32]:
        """K observations of nothing, (K, 1): ones, not zeros, with which the first layer of a
        policy would have no gradient.
        """
        return np.full((count, 1), min(1.0, self.bound), np.float32)


def read_only_parameters(networks: Sequence[EditableNetwork], names: Sequence[str]) -> list[Tensor]:
    """Parameters that are observed beside the edited weights, each (networks, numbers): of the
    unedited networks.

    Args:
        networks: The task's networks, of one architecture.
        names: Names or globs of parameters, such as `fc3.weight`; observed in this order, each in C
            order.

    Raises:
        ValueError: A name matches nothing; the message lists the nearest ones.
    """
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            'observe_parameters must be a list of names or globs, such as ["fc3.weight"], got'
            f" {names!r}"
        )
    states = [network.fresh().state_dict() for network in networks] if names else []
    chosen: dict[str, None] = {}
    for name in names:
        matches = [
            known
            for known, tensor in states[0].items()
            if tensor.is_floating_point() and fnmatch.fnmatchcase(known, name)
        ]
        if not matches:
            near = difflib.get_close_matches(name, states[0], n=5, cutoff=0.0)
            raise ValueError(
                f"observe_parameters: {name!r} is no parameter of the network; the nearest are "
                f"{', '.join(near)}"
            )
        chosen.update(dict.fromkeys(matches))
    return [torch.stack([state[name].flatten() for state in states]) for name in chosen]
