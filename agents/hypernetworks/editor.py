"""What all editors share whose policy learns from sequences: training, checkpoints, saving, and
loading elsewhere.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec

from agents.checkpoints import TRAINING
from agents.configured import Settings, read_config, write_config
from agents.editors.stream import StreamEditor
from agents.hypernetworks.learning import Learning, SequenceLearner, SequencePolicy
from agents.hypernetworks.network import check_sites
from agents.hypernetworks.stream import EditStream, WorldStream, is_stream_of_facts, learning_stream
from agents.protocol import Access, Budget
from editgym.checks import require
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv
from editgym.weights import EditJournal, Entry
from editgym.weights.overlay import fingerprint

POLICY_FILE = "policy.pt"
LEARNING_FIELDS = frozenset(field.name for field in fields(Learning))
_EPISODES = 1_000


class LearnedEditor(StreamEditor):
    """An editor whose policy learns from sequences; a subclass says what the policy is and how it
    learns.

    It is trained on the sites of one model and can be loaded on any other with sites of the same
    shapes.
    """

    access: ClassVar[Access] = "gradient"

    def __init__(self) -> None:
        self._policy: SequencePolicy | None = None
        self._sites: list[tuple[str, tuple[int, int]]] = []
        self._learned: dict[str, Any] = {}

    @abstractmethod
    def make_policy(self, process: EditStream, seed: int) -> SequencePolicy:
        """The untrained policy for a process's sites."""

    @abstractmethod
    def learning(self) -> Learning:
        """How it learns."""

    @property
    def sites(self) -> list[tuple[str, tuple[int, int]]]:
        """Name and (out, in) of the sites it learned on."""
        return self._sites

    def resolved(self, spec: EnvSpec | None) -> Settings:
        """Nothing: what it learns with is in `config`."""
        return Settings()

    @property
    def policy(self) -> SequencePolicy:
        """The policy.

        Raises:
            RuntimeError: There is none yet.
        """
        if self._policy is None:
            raise RuntimeError(f"{self.name} has no policy yet: call learn() or load() first")
        return self._policy

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Train until the settings' sequences or the budget are spent.

        With `out`, a checkpoint is written after every sequence; a run that finds one goes on from
        it.

        Raises:
            Unsupported: It is not an environment with streams.
            ValueError: A setting is out of range.
        """
        env, process = learning_stream(env_spec, {})
        self._sites = [(site.name, site.shape) for site in process.sites]
        torch.manual_seed(seed)
        self._policy = self.make_policy(process, seed).to(process.device)
        env.close()
        learning = self.learning() if is_stream_of_facts(env_spec) else self.learning_in_worlds()
        SequenceLearner(
            self._policy, env_spec, learning, budget, seed, out, self.name, self.config
        ).learn()
        self._learned = self._policy.statistics()

    def learning_in_worlds(self) -> Learning:
        """How it learns in ShiftWorld: an episode is short, and there is no stream to judge it on.

        Raises:
            ValueError: A setting is given that ShiftWorld has no use for.
        """
        for name in ("validate_every", "train_env"):
            require(
                name not in self.config,
                name,
                self.config.get(name),
                "left out in ShiftWorld: an episode is "
                "short, and there is no stream to judge it on",
            )
        sequences = self.learning().sequences if "sequences" in self.config else self._episodes
        return replace(self.learning(), sequences=sequences, validate_every=0, train_env={})

    @property
    def _episodes(self) -> int:
        """Of ShiftWorld, where nothing else is asked for."""
        return _EPISODES

    def edit(
        self, env: gym.Env, folder: Path | None = None, seed: int | None = None
    ) -> EditJournal:
        """As `StreamEditor.edit`; in ShiftWorld one episode, without checkpoints."""
        if isinstance(env.unwrapped, LifelongLLMEditEnv):
            return super().edit(env, folder, seed)
        stream = WorldStream(env)
        stream.reset()
        self.begin(stream)
        while not stream.over:
            stream.advance(self.entries(stream))
        return env.unwrapped.journal  # type: ignore[attr-defined]

    def begin(self, process: EditStream) -> None:
        """Start from what was learned.

        Raises:
            RuntimeError: There is no policy yet.
            ShapeMismatchError: The sites have other shapes than those it learned on, or are the
                same in another order; the message names one.
        """
        self._policy = self.policy.to(process.device)
        check_sites(self._sites, [(site.name, site.shape) for site in process.sites])
        self.policy.load_statistics(self._learned)

    def entries(self, process: EditStream) -> list[Entry]:
        """The policy's."""
        return self.policy.entries(process)

    def fingerprint(self) -> str:
        """Of the policy's parameters."""
        return fingerprint(self.policy)

    def state_dict(self) -> dict[str, Any]:
        """The running statistics."""
        return self.policy.statistics()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Running statistics that `state_dict` gave."""
        self.policy.load_statistics(state)

    def save(self, folder: Path) -> None:
        """Write the configuration, and the policy completely or not at all; a checkpoint in
        `folder` is done with.
        """
        parameters = self.policy.state_dict()
        write_config(folder, self.config)
        partial = folder / f"{POLICY_FILE}.partial"
        torch.save(
            {
                "sites": [[name, list(shape)] for name, shape in self._sites],
                "parameters": parameters,
                "statistics": self._learned,
            },
            partial,
        )
        os.replace(partial, folder / POLICY_FILE)
        (folder / TRAINING).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        agent = cls(**read_config(folder))
        agent._sites, state = load_policy(folder)
        agent._policy = agent.restored_policy(agent._sites)
        agent._policy.load_state_dict(state["parameters"])
        agent._learned = state["statistics"]
        agent._policy.load_statistics(agent._learned)
        return agent

    @abstractmethod
    def restored_policy(self, sites: list[tuple[str, tuple[int, int]]]) -> SequencePolicy:
        """A policy of the right shape to load parameters into."""


def load_policy(folder: Path) -> tuple[list[tuple[str, tuple[int, int]]], dict[str, Any]]:
    """What `LearnedEditor.save` wrote: the sites, and `parameters` and `statistics`, on the CPU.

    Raises:
        FileNotFoundError: There is none in `folder`.
    """
    if not (folder / POLICY_FILE).is_file():
        raise FileNotFoundError(f"no policy in {folder}: there is no {POLICY_FILE}")
    state = torch.load(folder / POLICY_FILE, weights_only=True, map_location="cpu")
    return [(name, (shape[0], shape[1])) for name, shape in state["sites"]], state
