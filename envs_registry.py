"""The table of editgym's environments and the loop that registers them.

It imports gymnasium alone and names classes by string, so that `import editgym` costs next to
nothing.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec


@dataclass(frozen=True)
class Environment:
    """One row of the table.

    Attributes:
        id: Gymnasium id.
        entry_point: Class of one environment.
        vector_entry_point: Class of K candidates at once; None where there is none.
        kwargs: Arguments, JSON values, that an id is registered with: an earlier version is the
            same class with the choices of its time.
        evaluation_kwargs: Arguments, JSON values, of the environment that edits are made in to be
            evaluated, where they differ from those of the one that is learned in: another split of
            the data.
        measuring: Arguments that decide how an edit is measured: its journal can be scored again
            with others. Of a row that is, the cell holds what they were when the edit was made.
    """

    id: str
    entry_point: str
    vector_entry_point: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    evaluation_kwargs: Mapping[str, Any] = field(default_factory=dict)
    measuring: tuple[str, ...] = ()


_NAMESPACE = "editgym/"
# The decision process of Malik (arXiv 2606.13461).
_PAPER: Mapping[str, Any] = {
    "rank": None,
    "origin": "zero",
    "reward": "absolute",
    "observe": "weights",
    "out_of_range": "error",
    "uniform_info": False,
}

_OF_WORLDS = ("metrics",)
_OF_STREAMS = (
    *("scorer", "evaluate_formats", "format_edits", "prompt_format", "separator", "system"),
    *("max_new_tokens", "text"),
)

ENVIRONMENTS = (
    Environment(
        "MaskWorld-v0",
        "editgym.envs.mask_world:MaskWorldEnv",
        "editgym.envs.mask_world:MaskWorldVectorEnv",
        kwargs=_PAPER,
        measuring=_OF_WORLDS,
    ),
    Environment(
        "MaskWorld-v1",
        "editgym.envs.mask_world:MaskWorldEnv",
        "editgym.envs.mask_world:MaskWorldVectorEnv",
        measuring=_OF_WORLDS,
    ),
    Environment(
        "ShiftWorld-v0",
        "editgym.envs.shift_world:ShiftWorldEnv",
        "editgym.envs.shift_world:ShiftWorldVectorEnv",
        kwargs=_PAPER,
        measuring=_OF_WORLDS,
    ),
    Environment(
        "ShiftWorld-v1",
        "editgym.envs.shift_world:ShiftWorldEnv",
        "editgym.envs.shift_world:ShiftWorldVectorEnv",
        measuring=_OF_WORLDS,
    ),
    Environment(
        "LifelongLLMEdit-v0",
        "editgym.envs.lifelong_llm_edit:LifelongLLMEditEnv",
        kwargs={
            "scorer": "exact",
            "max_new_tokens": 8,
            "text": "factworld",
        },
        evaluation_kwargs={"split": "test"},
        measuring=_OF_STREAMS,
    ),
    Environment(
        "LifelongLLMEdit-v1",
        "editgym.envs.lifelong_llm_edit:LifelongLLMEditEnv",
        evaluation_kwargs={"split": "test"},
        measuring=_OF_STREAMS,
    ),
)


def register_all() -> None:
    """Register every row with Gymnasium, as `MaskWorld-v1` and as `editgym/MaskWorld-v1`; ids that
    are there already are left alone.

    Raises:
        ValueError: Two rows have the same id.
    """
    ids = [row.id for row in ENVIRONMENTS]
    if len(set(ids)) != len(ids):
        raise ValueError(f"ENVIRONMENTS has an id twice: {sorted(ids)}")
    for row in ENVIRONMENTS:
        for env_id in (row.id, _NAMESPACE + row.id):
            if env_id not in gym.registry:
                gym.register(
                    env_id,
                    row.entry_point,
                    vector_entry_point=row.vector_entry_point,
                    kwargs=dict(row.kwargs),
                )


def environment_spec(
    env_id: str, arguments: Mapping[str, Any], *, evaluation: bool = False
) -> EnvSpec:
    """The registered spec of `env_id` with arguments.

    Args:
        env_id: Gymnasium id, of any environment; `package.module:Id-v0` is the id that the module
            registers while it is imported. Of editgym's own, `editgym/Id-v0` is `Id-v0`: results
            have one name for an environment.
        arguments: Keyword arguments of the environment.
        evaluation: Whether it is for edits that are evaluated: its row's `evaluation_kwargs` are
            added, and give way to `arguments`.

    Raises:
        gymnasium.error.Error: No environment has this id.
        ImportError: There is no such module.
    """
    module, _, env_id = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    spec = copy.deepcopy(gym.spec(env_id.removeprefix(_NAMESPACE)))
    for row in ENVIRONMENTS:
        if evaluation and row.id == spec.id:
            spec.kwargs.update(row.evaluation_kwargs)
    spec.kwargs.update(arguments)
    return spec
