"""What an agent declares, next to its settings, about where `agents.tune` looks for better ones.

A search stands with its setting: `setting(0.01, above(0), search=LogUniform(1e-4, 1))`. A setting
without one keeps its value; so does one that is typed, and one that is None, or 0 on a logarithmic
scale, as long as nothing says what stands for it. Limits that leave the value out which an agent
has by itself are widened to hold it: the first trial has the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gymnasium as gym

if TYPE_CHECKING:  # it loads PyTorch, which tables of settings do without
    from editgym.weights.sites import Role

Scalar = str | bool | int | float


@dataclass(frozen=True)
class LogUniform:
    """Numbers between two limits, evenly by their logarithm.

    Attributes:
        low: The least.
        high: The greatest.
        relative: Whether the limits are factors of the value that an agent has by itself: its
            default, or what is tuned for the environment.
        where_none: The value that counts in an environment where the setting is None; None where
            nothing does.
    """

    low: float
    high: float
    relative: bool = False
    where_none: Callable[[gym.Env], float | None] | None = None


@dataclass(frozen=True)
class Uniform:
    """Numbers between two limits, evenly.

    Attributes:
        low: The least.
        high: The greatest.
    """

    low: float
    high: float


@dataclass(frozen=True)
class Whole:
    """Whole numbers between two limits.

    Attributes:
        low: The least.
        high: The greatest.
        log: Whether evenly by their logarithm.
    """

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of a few values without an order.

    Attributes:
        options: The values, JSON scalars.
    """

    options: tuple[Scalar, ...]


@dataclass(frozen=True)
class SiteGroups:
    """Names of sites of a language model, for the setting or the environment's argument `sites` or
    `site`: modules with some roles in one part of the layers.

    Attributes:
        roles: Which roles are tried together, one group after the other.
        parts: How many parts the layers are divided into.
        single: Whether one site is wanted: the middle one of the part.
    """

    roles: tuple[tuple[Role, ...], ...]
    parts: int = 3
    single: bool = False


Search = LogUniform | Uniform | Whole | Choice | SiteGroups
# By name of the setting; of one that is a mapping, by `setting.key`.
Searches = Mapping[str, Search]

_OUTPUTS: tuple[Role, ...] = ("mlp outputs",)
_INPUTS: tuple[Role, ...] = ("mlp inputs",)
# For editors that follow gradients, those that need what is written to the residual stream, and
# those of one matrix.
ANY_SITES = SiteGroups(
    (_OUTPUTS, _INPUTS, _INPUTS + _OUTPUTS, ("attention inputs",), ("attention outputs",))
)
MLP_OUTPUTS = SiteGroups((_OUTPUTS,))
ONE_MLP_OUTPUT = SiteGroups((_OUTPUTS,), parts=6, single=True)
