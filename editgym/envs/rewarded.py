"""What all environments give as the gradient of a reward, and the error of who may not have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class AccessError(AttributeError):
    """An agent has asked for what its access does not allow; the message says which does."""


class Rewarded(Protocol):
    """What a differentiable step gives."""

    @property
    def reward(self) -> Tensor:
        """The reward, a scalar or (1,), with gradients to the action."""
        ...


class CostGradient(Protocol):
    """What a world's reward says of the edited matrices: which way it falls, and how low it is."""

    @property
    def cost(self) -> float:
        """Minus V, the weighted terms of the reward."""
        ...

    @property
    def gradients(self) -> Sequence[Tensor]:
        """The cost's gradient by every site's matrix, each (out, in)."""
        ...
