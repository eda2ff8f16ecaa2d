"""What agents and harness may ask of `env.unwrapped`, by access.

| access | contract | what it adds |
|---|---|---|
| `reward` | `EditEnv` | spaces, `layout`, `journal`, `episode_length`; `evaluate` (harness) |
| `gradient` | `GradientEnv` | the differentiable step |
| `data`, `oracle` | `OpenEnv` | `task` and `network` |

`StreamEnv` is the contract of streams of edits: it adds its process and its checkpoint. An
environment of one's own fulfils a contract by having its attributes; it need not inherit.
`edit_env`, `gradient_env`, `open_env` and `stream_env` are the ways from a `gym.Env`, through all
its wrappers, to the contract; agents and harness ask nothing else of `unwrapped`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
from gymnasium import spaces
from torch import Tensor

from editgym.envs.lifelong.process import LifelongProcess
from editgym.metrics.evaluation import Evaluation
from editgym.weights import ActionLayout, EditJournal


class Unsupported(RuntimeError):
    """The agent cannot work on this environment or task; the message says why."""


class Rewarded(Protocol):
    """What a differentiable step gives."""

    @property
    def reward(self) -> Tensor:
        """The reward, a scalar or (1,), with gradients to the action."""
        ...


@runtime_checkable
class EditEnv(Protocol):
    """What every agent may ask of an environment, whatever its access.

    Attributes:
        observation_space: Gymnasium's, of one observation.
        action_space: Gymnasium's, a flat `Box` in [−1, 1].
        layout: How a flat action holds an update for every site.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    layout: ActionLayout

    @property
    def journal(self) -> EditJournal:
        """The edits of the current episode."""
        ...

    @property
    def episode_length(self) -> int:
        """Steps per episode."""
        ...

    def evaluate(self, journal: EditJournal) -> Evaluation:
        """What a journal of the current episode does on test data; for the harness.

        Raises:
            JournalError: The journal belongs to another network.
            gymnasium.error.ResetNeeded: There was no reset.
        """
        ...


@runtime_checkable
class GradientEnv(EditEnv, Protocol):
    """What agents with the access `gradient` may ask beside `EditEnv`."""

    def differentiable_step(self, action: Tensor) -> Rewarded:
        """`step` whose reward carries gradients to `action`, flat, on the task's device."""
        ...


@runtime_checkable
class OpenEnv(EditEnv, Protocol):
    """What agents with the access `data` or `oracle` may ask beside `EditEnv`.

    Attributes:
        task: The model's data, goals and measures: an `editgym.tasks.protocol.Task`, or a
            `KnowledgeTask` of streams of facts.
        network: The network under edit: an `EditableNetwork`, or an `EditableDecoder`.
    """

    @property
    def task(self) -> Any:
        """The task."""
        ...

    @property
    def network(self) -> Any:
        """The network under edit."""
        ...


@runtime_checkable
class StreamEnv(OpenEnv, Protocol):
    """What agents may ask of an environment whose episode is a stream of edits."""

    @property
    def process(self) -> LifelongProcess:
        """The stream's tensor API."""
        ...

    def checkpoint(self) -> dict[str, Any]:
        """What `reset(options={"restore": ...})` needs to go on after an interruption."""
        ...


def edit_env(env: gym.Env) -> EditEnv:
    """The environment beneath all wrappers, as `EditEnv`.

    Raises:
        Unsupported: It lacks a part of the contract; the message names it.
    """
    return _offered(env, EditEnv)


def gradient_env(env: gym.Env) -> GradientEnv:
    """The environment beneath all wrappers, as `GradientEnv`.

    Raises:
        Unsupported: It lacks a part of the contract; the message names it.
    """
    return _offered(env, GradientEnv)


def open_env(env: gym.Env) -> OpenEnv:
    """The environment beneath all wrappers, as `OpenEnv`.

    Raises:
        Unsupported: It lacks a part of the contract; the message names it.
    """
    return _offered(env, OpenEnv)


def stream_env(env: gym.Env) -> StreamEnv:
    """The environment beneath all wrappers, as `StreamEnv`.

    Raises:
        Unsupported: It lacks a part of the contract; the message names it.
    """
    return _offered(env, StreamEnv)


def _offered(env: gym.Env, contract: Any) -> Any:
    inner = env.unwrapped
    if not isinstance(inner, contract):
        parts = [name for name in _members(contract) if not hasattr(inner, name)]
        raise Unsupported(
            f"{inner} is no {contract.__name__}: it lacks {', '.join(parts)}"
            " (editgym.envs.protocol)"
        )
    return inner


def _members(contract: type) -> list[str]:
    """The names that a contract asks for, its bases' among them."""
    names: dict[str, None] = {}
    for base in reversed(contract.__mro__):
        if getattr(base, "_is_protocol", False):
            own = {**getattr(base, "__annotations__", {}), **vars(base)}
            names |= dict.fromkeys(name for name in own if not name.startswith("_"))
    return list(names)
