"""The classes of Stable-Baselines3 and sb3-contrib behind the algorithms' names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.rl.presets import CLASSES


def algorithm_class(algorithm: str) -> type[BaseAlgorithm]:
    """The SB3 or sb3-contrib class of an algorithm.

    Raises:
        ImportError: It is in sb3-contrib, which is not installed.
    """
    name = CLASSES[algorithm]
    if hasattr(stable_baselines3, name):
        return getattr(stable_baselines3, name)
    try:
        import sb3_contrib
    except ImportError as error:
        raise ImportError(
            f'{algorithm} is part of sb3-contrib: pip install "editgym[rl]"'
        ) from error
    return getattr(sb3_contrib, name)


def check_takes(name: str, kind: type[BaseAlgorithm], given: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that an algorithm does not take.

    Args:
        name: The algorithm's name, for messages.
        kind: Its class.
        given: The hyperparameters.

    Raises:
        ValueError: It does not take one of them.
    """
    # These are the agent's own to give: environment and policy, the environment's device, `learn`'s
    # seed.
    own = ("policy", "env", "device", "seed", "_init_setup_model")
    takes = [one for one in inspect.signature(kind).parameters if one not in own]
    unknown = sorted(set(given) - set(takes))
    if unknown:
        raise ValueError(
            f"{name} takes no hyperparameter {', '.join(unknown)}; it takes {', '.join(takes)}"
        )
