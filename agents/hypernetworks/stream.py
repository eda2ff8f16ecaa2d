"""What hypernetwork policies need of an environment: batches to be edited one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.hypernetworks.worlds import WorldStream
from editgym.envs.protocol import Rewarded, edit_env, gradient_stream
from editgym.weights import Entry, LowRankFactors
from editgym.weights.language.capture import Capture
from editgym.weights.sites import EditSite


class EditStream(Protocol):
    """Batches to be edited one after the other; `LifelongProcess` is one, and `WorldStream`."""

    @property
    def sites(self) -> tuple[EditSite, ...]:
        """What is edited."""
        ...

    @property
    def device(self) -> torch.device:
        """Where keys and gradients live."""
        ...

    @property
    def step_size(self) -> float:
        """UltraEdit's η for the model."""
        ...

    @property
    def horizon(self) -> int:
        """Steps in an episode."""
        ...

    @property
    def over(self) -> bool:
        """Whether all batches have been edited."""
        ...

    @property
    def capture(self) -> Capture:
        """Keys and gradients of the batch; its `new` has those of new requests alone."""
        ...

    def reset(self, seed: int) -> None:
        """Begin the episode that `seed` draws."""
        ...

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """The same with one more update per site, which is not applied."""
        ...

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> Rewarded:
        """Apply one update per site; the reward has gradients to it."""
        ...

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Rewards (K,) of K candidates, none of which is applied."""
        ...

    def advance(self, entries: Sequence[Entry]) -> object:
        """Apply journal entries as this step's edit."""
        ...


def learning_stream(env_spec: EnvSpec, train_env: Mapping[str, Any]) -> tuple[gym.Env, EditStream]:
    """An environment to learn in, on data that rewards are open on, and its tensor API.

    Args:
        env_spec: The spec of a `LifelongLLMEdit` or `ShiftWorld`.
        train_env: Further arguments of a stream of facts.

    Raises:
        Unsupported: It is another environment.
    """
    if is_stream_of_facts(env_spec):
        env = gym.make(env_spec, **{**train_env, "split": "policy", "journal_folder": None})
        return env, gradient_stream(env).process
    env = gym.make(env_spec)
    return env, WorldStream(env)


def base_hashes(env: gym.Env) -> list[str]:
    """The hashes of the unedited networks that an episode may be about.

    Where there are several, `env` is reset to each.
    """
    inner = edit_env(env)
    networks = inner.choices.get("network", 1)
    if networks == 1:
        return [inner.journal.base_hash]
    hashes = []
    for network in range(networks):
        env.reset(options={"network": network})
        hashes.append(inner.journal.base_hash)
    return hashes


def is_stream_of_facts(env_spec: EnvSpec) -> bool:
    """Whether a spec is `LifelongLLMEdit`'s."""
    return env_spec.id.split(":")[-1].startswith("LifelongLLMEdit")


def calls_per_capture(process: EditStream) -> int:
    """Rewards that keys and gradients of a batch take; those of facts are of the requests' own
    loss, and no reward.
    """
    return int(isinstance(process, WorldStream))
