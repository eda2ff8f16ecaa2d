"""What all editors share whose policy learns from sequences: training, checkpoints, saving, and
loading elsewhere.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from agents.checkpoints import TRAINING
from agents.configured import Settings, layered, read_config, write_config
from agents.editors.stream import StreamEditor
from agents.episodes import check_arguments
from agents.hypernetworks.learning import SequenceLearner
from agents.hypernetworks.network import check_sites
from agents.hypernetworks.policy import SequencePolicy
from agents.hypernetworks.saved import (
    POLICY_FILE,
    SavedKind,
    Sites,
    load_policy,
    policy_to_start_from,
)
from agents.hypernetworks.settings import INNER, Learning, tuned_learning
from agents.hypernetworks.stream import EditStream, is_stream_of_facts, learning_stream
from agents.hypernetworks.worlds import WorldStream
from agents.protocol import Access, Budget
from agents.tune.search import ANY_SITES, Searches
from editgym.checks import require
from editgym.envs.protocol import edit_env, is_stream
from editgym.models.training import generators_kept
from editgym.paths import whole_file
from editgym.weights import EditJournal, Entry
from editgym.weights.stored import fingerprint

_EPISODES = 1_000


class LearnedEditor(StreamEditor):
    """An editor whose policy learns from sequences; a subclass says what the policy is, and its
    `settings_type`, a `Learning`, how it learns.

    It is trained on the sites of one model and can be loaded on any other with sites of the same
    shapes. What it was trained with is saved beside what it learned: loaded elsewhere, it edits the
    same.
    """

    access: ClassVar[Access] = "gradient"
    settings_type: ClassVar[type[Settings]] = Learning
    env_searches: ClassVar[Searches] = {"sites": ANY_SITES}
    settings: Learning

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._policy: SequencePolicy | None = None
        self._sites: Sites = []
        self._learned: dict[str, Any] = {}

    @abstractmethod
    def make_policy(self, process: EditStream, seed: int) -> SequencePolicy:
        """The untrained policy for a process's sites."""

    @abstractmethod
    def restored_policy(self, sites: Sites) -> SequencePolicy:
        """A policy of the right shape to load parameters into."""

    def learning(self) -> Learning:
        """How it learns: its settings."""
        return self.settings

    @property
    def sites(self) -> Sites:
        """Name and (out, in) of the sites it learned on."""
        return self._sites

    @property
    def policy(self) -> SequencePolicy:
        """The policy.

        Raises:
            RuntimeError: There is none yet.
        """
        if self._policy is None:
            raise RuntimeError(f"{self.name} has no policy yet: call learn() or load() first")
        return self._policy

    # --- settings ---------------------------------------------------------------------------------

    def tuned(self, spec: EnvSpec) -> Mapping[str, Any]:
        """The values that were tuned for an environment's task, model and length of stream."""
        return tuned_learning(spec, self.name, self.config)

    def resolved(self, spec: EnvSpec | None) -> Settings:
        """The settings in an environment made from `spec`; once it has learned, those that it
        learned with, wherever it edits.

        Raises:
            ValueError: A value is out of its range, or ShiftWorld has no use for it.
        """
        return self.settings if self._policy is not None else self._resolved(spec)

    def _resolved(self, spec: EnvSpec | None) -> Learning:
        """The settings to learn with in an environment made from `spec`."""
        if spec is not None and not is_stream_of_facts(spec):
            return self.learning_in_worlds()
        tuned = {} if spec is None else self.tuned(spec)
        settings = self._settings_of(layered(tuned, self.config, INNER))
        if spec is not None:
            check_arguments(spec, settings.train_env, "train_env")
        return settings

    def _settings_of(self, given: Mapping[str, Any]) -> Learning:
        settings = self.settings_type.of(given)
        assert isinstance(settings, Learning)
        return settings

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
        settings = self._settings_of(self.config)
        sequences = settings.sequences if "sequences" in self.config else self._episodes
        return replace(settings, sequences=sequences, validate_every=0, train_env={})

    @property
    def _episodes(self) -> int:
        """The episodes of ShiftWorld that it learns, where nothing else is asked for."""
        return _EPISODES

    # --- learning and editing ---------------------------------------------------------------------

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Train until the settings' sequences or the budget are spent.

        With `out`, a checkpoint is written after every sequence; a run that finds one goes on from
        it.

        Raises:
            Unsupported: It is not an environment with streams.
            ValueError: A setting is out of range, or the budget does not pay for one sequence.
        """
        env, process = learning_stream(env_spec, {})
        self.settings = self._resolved(env_spec)
        self._sites = [(site.name, site.shape) for site in process.sites]
        try:
            with generators_kept():
                torch.manual_seed(seed)
                self._policy = policy = self.make_policy(process, seed).to(process.device)
                if self.settings.start_from is not None:
                    self._take_over(Path(self.settings.start_from))
                env.close()
                given = self.learning()
                SequenceLearner(policy, env_spec, given, budget, seed, out, self.name).learn()
        except BaseException:
            self._policy = None  # what has not learned to the end is nothing to save or edit with
            raise
        self._learned = policy.statistics()

    def edit(
        self,
        env: gym.Env,
        folder: Path | None = None,
        seed: int | None = None,
        every: float = 0.0,
    ) -> EditJournal:
        """Edit one stream to its end; in ShiftWorld one episode, without checkpoints.

        Args:
            env: `LifelongLLMEdit` or `ShiftWorld`; it is reset, unless `folder` holds a
                checkpoint.
            folder: Where a checkpoint is written after a step of a stream, and continued from.
                The environment needs a `journal_folder` then.
            seed: The seed that `env` was reset with; a checkpoint of another one is not continued
                from.
            every: Seconds between two checkpoints at least.

        Raises:
            RuntimeError: There is no policy yet.
            Unsupported: It is another environment.
            ShapeMismatchError: The sites are not those that it learned on; the message names one.
            ValueError: The checkpoint is of another editor, seed, sites or step size, or of one
                that has learned something else; nothing has changed then.
        """
        if is_stream(env):
            return super().edit(env, folder, seed, every)
        stream = WorldStream(env)
        stream.reset()
        self.begin(stream)
        while not stream.over:
            stream.advance(self.entries(stream))
        return edit_env(env).journal

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
        """The policy's entries for the stream's batch."""
        return self.policy.entries(process)

    def fitted(self, parameters: dict[str, Tensor], kind: SavedKind) -> dict[str, Tensor]:
        """A saved policy's parameters as this agent's policy takes them.

        Args:
            parameters: By name, for sites in this agent's order.
            kind: What they were learned by: an agent of this name and rule.
        """
        return parameters

    def _take_over(self, folder: Path) -> None:
        """Start from the policy of the agent in `folder`, with its running statistics."""
        rule = self.policy.statistics().get("rule")
        sites, state, kind = policy_to_start_from(folder, self.name, rule)
        check_sites(sites, self._sites)
        own, given = self.policy.state_dict(), self.fitted(state["parameters"], kind)
        other = [name for name in own if name not in given or given[name].shape != own[name].shape]
        require(
            not other and len(own) == len(given),
            "start_from",
            str(folder),
            f"a {self.name} with a policy of the same size"
            f" ({other[0] if other else 'it has more parameters'} differs)",
        )
        self.policy.load_state_dict(given)
        self.policy.load_statistics(state["statistics"])

    # --- files ------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """A hash of the policy's parameters; its units settle while it edits."""
        return fingerprint(self.policy, [name for name, _ in self.policy.named_buffers()])

    def state_dict(self) -> dict[str, Any]:
        """The running statistics."""
        return self.policy.statistics()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take running statistics that `state_dict` gave."""
        self.policy.load_statistics(state)

    def save(self, folder: Path) -> None:
        """Write the configuration, and the policy with the settings it was trained with, completely
        or not at all; a checkpoint in `folder` is done with.
        """
        state = {
            "agent": self.name,
            "sites": [[name, list(shape)] for name, shape in self._sites],
            "parameters": self.policy.state_dict(),
            "statistics": self._learned,
            "settings": self.settings.as_dict(),
        }
        write_config(folder, self.config)
        with whole_file(folder / POLICY_FILE) as partial:
            torch.save(state, partial)
        (folder / TRAINING).unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        agent = cls(**read_config(folder))
        agent._sites, state = load_policy(folder)
        # Agents were saved without them when all that mattered stood in the configuration.
        agent.settings = agent._settings_of(state.get("settings", agent.config))
        with generators_kept():  # the first weights are random, and nobody's draws
            agent._policy = agent.restored_policy(agent._sites)
        agent._policy.load_state_dict(state["parameters"])
        agent._learned = state["statistics"]
        agent._policy.load_statistics(agent._learned)
        return agent
