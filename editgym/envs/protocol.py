"""What agents and harness may ask of an environment beneath its wrappers, by access.

| access | every environment | worlds | streams of edits |
|---|---|---|---|
| `reward` | `EditEnv` | | `CandidateEnv`: many actions scored on one state |
| `gradient` | `GradientEnv`: a gradient | `GradientWorld`: by weights | `GradientStream`: process |
| `data`, `oracle` | `OpenEnv`: task, network | `OpenWorld`: operator | `StreamEnv`: both |

Worlds are MaskWorld and ShiftWorld, streams LifelongLLMEdit. An environment of one's own fulfils a
contract by having its attributes; it need not inherit. `edit_env`, `stream_env` and so on are the
ways from a `gym.Env`, through all its wrappers, to the contract; agents and harness ask nothing
else of `unwrapped`. `is_stream` tells streams from worlds. What the leaderboard hands to agents
offers no more than their access allows (`editgym.envs.access`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.rewarded import AccessError as AccessError
from editgym.envs.rewarded import CostGradient as CostGradient
from editgym.envs.rewarded import Rewarded as Rewarded
from editgym.metrics.evaluation import Evaluation
from editgym.weights import ActionLayout, EditJournal, EditSite, Operator


class Unsupported(RuntimeError):
    """The agent cannot work on this environment or task; the message says why."""


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

    @property
    def choices(self) -> Mapping[str, int]:
        """How many there are of each thing that an episode is about, such as
        `{"network": 1, "goal": 3}`; empty where nothing can be chosen. `reset` draws one of each
        unless its `options` name it by index, and says in its info which.
        """
        ...

    def evaluate(self, journal: EditJournal) -> Evaluation:
        """What a journal of the current episode does on test data; for the harness.

        Raises:
            JournalError: The journal belongs to another network.
            gymnasium.error.ResetNeeded: There was no reset.
        """
        ...


@runtime_checkable
class CandidateEnv(EditEnv, Protocol):
    """What agents with the access `reward` may ask of a stream beside `EditEnv`: to score many
    actions on the state that it is in.

    Attributes:
        action_form: What actions are; only `coefficients` can be scored many at a time.
    """

    action_form: Any

    def candidate_rewards(self, actions: NDArray[np.float32]) -> Tensor:
        """Rewards (K,) of K actions (K, size), none of which is applied; they count K calls."""
        ...

    def follow(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool, dict[str, Any]]:
        """Apply an action without a reward: observation, whether the episode is over, and info."""
        ...

    def training_free_action(self) -> NDArray[np.float32]:
        """The action that is UltraEdit."""
        ...


@runtime_checkable
class GradientEnv(EditEnv, Protocol):
    """What agents with the access `gradient` may ask beside `EditEnv`."""

    def differentiable_step(self, action: Tensor) -> Rewarded:
        """`step` whose reward carries gradients to `action`, flat, on the task's device."""
        ...


@runtime_checkable
class GradientWorld(GradientEnv, Protocol):
    """What agents with the access `gradient` may ask of a world beside `GradientEnv`."""

    @property
    def operator(self) -> Operator:
        """How an update changes a site's matrix."""
        ...

    @property
    def sites(self) -> tuple[EditSite, ...]:
        """What is edited."""
        ...

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """Copies of the current matrix at every site, each (out, in), on the task's device."""
        ...

    def cost_gradient(self, weights: Sequence[Tensor]) -> CostGradient:
        """Minus V with these matrices at the sites, and its gradient by them.

        V, the weighted terms of the reward, is that of the episode's network and goal by the
        probability signal, over the reward sets, or 512 samples of a larger one, always the same.
        Nothing is applied; it counts one reward call.
        """
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
class OpenWorld(OpenEnv, Protocol):
    """What agents with the access `data` or `oracle` may ask of a world beside `OpenEnv`."""

    @property
    def operator(self) -> Operator:
        """How an update changes a site's matrix."""
        ...


@runtime_checkable
class GradientStream(GradientEnv, Protocol):
    """What agents with the access `gradient` may ask of a stream of edits beside `GradientEnv`."""

    @property
    def process(self) -> LifelongProcess:
        """The stream's tensor API; for agents that have no more access than `gradient`, of an
        environment that says so, what `editgym.envs.lifelong.view` has of it.
        """
        ...

    def checkpoint(self) -> dict[str, Any]:
        """What `reset(options={"restore": ...})` needs to go on after an interruption."""
        ...


@runtime_checkable
class StreamEnv(OpenEnv, GradientStream, Protocol):
    """What agents with the access `data` or `oracle` may ask of a stream of edits."""

    def evaluate(self, journal: EditJournal, thorough: bool = True) -> Evaluation:
        """`EditEnv.evaluate`; not `thorough`, without what takes passes of its own."""
        ...


def edit_env(env: gym.Env) -> EditEnv:
    """The environment beneath all wrappers, as `EditEnv`.

    Raises:
        AccessError: A part of the contract is there, but not for the agent that asks.
        Unsupported: It lacks a part of the contract; the message names it.
    """
    return _offered(env, EditEnv)


def candidate_env(env: gym.Env) -> CandidateEnv:
    """The environment beneath all wrappers, as `CandidateEnv`; see `edit_env` for errors."""
    return _offered(env, CandidateEnv)


def gradient_env(env: gym.Env) -> GradientEnv:
    """The environment beneath all wrappers, as `GradientEnv`; see `edit_env` for errors."""
    return _offered(env, GradientEnv)


def gradient_world(env: gym.Env) -> GradientWorld:
    """The environment beneath all wrappers, as `GradientWorld`; see `edit_env` for errors."""
    return _offered(env, GradientWorld)


def gradient_stream(env: gym.Env) -> GradientStream:
    """The environment beneath all wrappers, as `GradientStream`; see `edit_env` for errors."""
    return _offered(env, GradientStream)


def open_env(env: gym.Env) -> OpenEnv:
    """The environment beneath all wrappers, as `OpenEnv`; see `edit_env` for errors."""
    return _offered(env, OpenEnv)


def open_world(env: gym.Env) -> OpenWorld:
    """The environment beneath all wrappers, as `OpenWorld`; see `edit_env` for errors."""
    return _offered(env, OpenWorld)


def stream_env(env: gym.Env) -> StreamEnv:
    """The environment beneath all wrappers, as `StreamEnv`; see `edit_env` for errors."""
    return _offered(env, StreamEnv)


def is_stream(env: gym.Env) -> bool:
    """Whether the environment's episode is a stream of edits: it is `GradientStream`, or, where the
    access is `reward`, `CandidateEnv`.
    """
    return isinstance(env.unwrapped, GradientStream | CandidateEnv)


def members(contract: type) -> list[str]:
    """The names that a contract asks for, its bases' among them."""
    names: dict[str, None] = {}
    for base in reversed(contract.__mro__):
        if getattr(base, "_is_protocol", False):
            own = {**getattr(base, "__annotations__", {}), **vars(base)}
            names |= dict.fromkeys(name for name in own if not name.startswith("_"))
    return list(names)


_STREAMS = "it works on streams of facts, such as LifelongLLMEdit-v1; "
_WORLDS = "it works on worlds, such as MaskWorld-v1 and ShiftWorld-v1; "
_MEANT_FOR: Mapping[Any, str] = {
    **dict.fromkeys((CandidateEnv, GradientStream, StreamEnv), _STREAMS),
    **dict.fromkeys((GradientWorld, OpenWorld), _WORLDS),
}


def _offered(env: gym.Env, contract: Any) -> Any:
    inner = env.unwrapped
    missing = [name for name in members(contract) if not hasattr(inner, name)]
    for name in missing:
        try:
            getattr(inner, name)
        except AccessError:
            raise
        except AttributeError:
            pass
    if missing:
        raise Unsupported(
            f"{_MEANT_FOR.get(contract, '')}{inner} is no {contract.__name__}: it lacks"
            f" {', '.join(missing)}"
            " (editgym.envs.protocol)"
        )
    return inner
