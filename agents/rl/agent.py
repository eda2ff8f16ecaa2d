"""Every continuous-action algorithm of Stable-Baselines3 and sb3-contrib as an agent, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from agents.configured import (
    ConfiguredAgent,
    layered,
    read_config,
    read_settings,
    write_config,
    write_settings,
)
from agents.episodes import check_arguments, is_improving, spec_arguments, steps_of, task_name
from agents.protocol import Access, Budget, Stopwatch, Unsupported
from agents.rl.algorithms import algorithm_class, check_settings, made
from agents.rl.budget import (
    Progress,
    check_learns,
    falling_rate,
    spend,
    steps_between_updates,
    whole_rollouts,
)
from agents.rl.candidate_stream import CandidateStream
from agents.rl.policies import (
    RefiningEdits,
    lora_start,
    mlp_policy,
    set_mean_action,
    silence_critic,
)
from agents.rl.presets import CLASSES, preset
from agents.rl.saved import load_model, save_model
from agents.rl.settings import INNER, SB3Settings, check_rollout, signature
from editgym.envs.protocol import candidate_env, edit_env, is_stream
from editgym.envs.sb3 import monitored
from editgym.models.training import generators_kept
from editgym.weights import ActionLayout, EditJournal


class SB3Agent(ConfiguredAgent):
    """A Stable-Baselines3 algorithm that learns on K candidates at once.

    Every argument is a JSON value. Those left out come from the preset of algorithm, task and
    length of the stream (`agents.rl.presets`); the defaults here count where it has none. What is
    given as `policy_kwargs` or `train_env` is laid over the preset's key by key.

    Args:
        algorithm: A key of `agents.rl.presets.CLASSES`.
        num_envs: K; None for `rollout` / `n_steps`.
        rollout: Reward calls between two updates of an on-policy algorithm, in whole episodes;
            where neither `num_envs` nor `n_steps` is given it is one episode of many candidates.
        shared_batch: Whether the candidates of a step are compared on one batch while learning:
            what differs between two rewards is then the edit alone (common random numbers).
        start: Standard deviation of A in the LoRA start of the policy's mean action
            (`agents.rl.policies.lora_start`); 0 leaves SB3's own start. On streams of facts any
            other number starts at the training-free update.
        refine: Factor on actions after an episode's first (`agents.rl.policies.RefiningEdits`).
        train_env: Arguments of the environment, other than those of the one that is edited, while
            learning on a stream of facts.
        sketch: How many numbers the policy sees of the weights (`agents.rl.policies.WeightSketch`);
            0 for all.
        linear_decay: Whether the learning rate falls linearly to 0 over the budget.
        final_log_std: Where the logarithm of a Gaussian policy's standard deviation is led,
            linearly over the budget, from `log_std_init`; None leaves it to the algorithm.
        **hyperparameters: Arguments of the SB3 class (`learning_rate`, `n_steps`, `batch_size`, …;
            `policy_kwargs` with `net_arch`, `activation_fn` as `"relu"`, `"tanh"` or `"elu"`,
            `log_std_init`, …).

    Raises:
        ValueError: There is no such algorithm, or a setting is out of its range.
    """

    access: ClassVar[Access] = "reward"
    name = "sb3"
    settings_type: ClassVar[type[SB3Settings]] = SB3Settings
    policy_takes: ClassVar[Sequence[str] | None] = None  # of `policy_kwargs`; None for all of SB3's
    settings: SB3Settings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show `algorithm` and the hyperparameters beside the settings in the signature."""
        super().__init_subclass__(**kwargs)
        cls.__signature__ = signature(cls.settings_type)  # type: ignore[attr-defined]

    def __init__(self, algorithm: str = "ppo", **settings: Any) -> None:
        if algorithm not in CLASSES:
            raise ValueError(
                f"algorithm: there is no {algorithm!r}; choose from {', '.join(CLASSES)}"
            )
        self.name = algorithm  # type: ignore[misc]
        self.config = {"algorithm": algorithm, **settings}
        self._given = settings
        self.settings = self._checked(settings)
        check_rollout(settings)
        self.model: BaseAlgorithm | None = None

    def tuned(self, spec: EnvSpec) -> dict[str, Any]:
        """The preset for an environment's task, and for the length of its streams."""
        horizon = None if spec.vector_entry_point else spec_arguments(spec).get("horizon")
        return preset(self.name, task_name(spec), horizon)

    def resolved(self, spec: EnvSpec | None) -> SB3Settings:
        """The preset with what this agent was given instead.

        Raises:
            ValueError: Algorithm, policy or environment does not take a setting.
        """
        tuned = {} if spec is None else self.tuned(spec)
        settings = self._checked(layered(tuned, self._given, INNER))
        if spec is not None and spec.vector_entry_point is None:
            check_arguments(spec, settings.train_env, "train_env")
        return settings

    def _checked(self, given: Mapping[str, Any]) -> SB3Settings:
        return check_settings(
            self.name, self.settings_type.of(given), self.policy, self.policy_takes
        )

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Train until the budget is spent; whole rollouts that the budget does not pay for are left
        out.

        With `out`, a checkpoint is written there every 10,000 reward calls and on Ctrl-C.

        Raises:
            Unsupported: The environment has no batched form that resets in the same step.
            ValueError: The budget has no end, or the algorithm does not take a hyperparameter.
        """
        if budget.reward_calls is None and budget.seconds is None:
            raise ValueError("budget: learning needs reward_calls or seconds")
        settings = self.resolved(env_spec)
        with closing(gym.make(env_spec, **self._train_env(env_spec, settings))) as env:
            length, layout = steps_of(env), edit_env(env).layout
        settings, kind = settings.sized(length), algorithm_class(self.name)
        hyperparameters = settings.for_algorithm()
        assert settings.num_envs is not None
        steps = steps_between_updates(kind, hyperparameters, length, settings.num_envs)
        calls = whole_rollouts(budget.reward_calls, settings.num_envs * steps)
        check_learns(hyperparameters, calls)
        training, start = self.training_env(env_spec, settings, layout, seed)
        try:
            device = env_spec.kwargs.get("device", "cpu")
            self.train(training, start, settings, Budget(calls, budget.seconds), seed, device, out)
        finally:
            training.close()

    def training_env(
        self, env_spec: EnvSpec, settings: SB3Settings, layout: ActionLayout, seed: int
    ) -> tuple[VecEnv, torch.Tensor | None]:
        """The environments to learn in, and the policy's first mean action; None leaves that to
        SB3.

        Raises:
            Unsupported: The environment has no batched form.
        """
        assert settings.num_envs is not None
        if env_spec.vector_entry_point is not None:
            worlds = gym.make_vec(
                env_spec, num_envs=settings.num_envs, shared_batch=settings.shared_batch
            )
            generator = torch.Generator().manual_seed(seed)
            start = lora_start(layout, settings.start, generator) if settings.start else None
            return self.refining(monitored(worlds), settings, env_spec), start
        env = gym.make(env_spec, **self._train_env(env_spec, settings))
        if not is_stream(env):
            raise Unsupported(
                f"{env_spec.id} has no vector environment for {self.name} to train on"
            )
        stream = CandidateStream(env, settings.num_envs, baseline=self._on_policy)
        return VecMonitor(stream), (
            torch.from_numpy(candidate_env(env).training_free_action()) if settings.start else None
        )

    @staticmethod
    def _train_env(env_spec: EnvSpec, settings: SB3Settings) -> dict[str, Any]:
        """What a stream is given otherwise while learning."""
        return {} if env_spec.vector_entry_point is not None else dict(settings.train_env)

    @property
    def _on_policy(self) -> bool:
        return issubclass(algorithm_class(self.name), OnPolicyAlgorithm)

    @property
    def policy(self) -> str | type[ActorCriticPolicy]:
        """The kind of policy, as SB3 takes it."""
        return "MlpLstmPolicy" if self.name == "recurrent_ppo" else "MlpPolicy"

    def refining(self, env: VecEnv, settings: SB3Settings, env_spec: EnvSpec) -> RefiningEdits:
        """Environments as this agent learns in them, made from `env_spec`."""
        return RefiningEdits(env, settings.refine, is_improving(env_spec), self._on_policy)

    def train(
        self,
        env: VecEnv,
        start: torch.Tensor | None,
        settings: SB3Settings,
        budget: Budget,
        seed: int,
        device: str,
        out: Path | None = None,
    ) -> None:
        """Train on any SB3 vector environment; what `learn` does after making one.

        Args:
            env: With `settings.num_envs` slots whose episodes end together.
            start: The policy's first mean action, or None.
            settings: What `resolved` gives, `sized`.
            budget: With `reward_calls` that make whole rollouts.
            seed: Seed of the policy and its noise.
            device: Torch device of the policy.
            out: Where checkpoints go.
        """
        self.settings, watch = settings, Stopwatch(budget.seconds)
        with generators_kept():  # SB3 seeds all of them
            self.model = self.build(env, settings, seed, device, watch)
            if start is not None:
                set_mean_action(self.model, start)
            if settings.hyperparameters.get("vf_coef") == 0:
                silence_critic(self.model)
            checkpoint = partial(self.save, out) if out else None
            progress = Progress(self.name, budget.reward_calls, watch, checkpoint)
            try:
                spend(self.model, progress, settings.final_log_std)
            finally:
                if not self.model.num_timesteps:
                    self.model = None  # what was stopped before its first step is no agent

    def build(
        self, env: VecEnv, settings: SB3Settings, seed: int, device: str, watch: Stopwatch
    ) -> BaseAlgorithm:
        """The untrained SB3 algorithm for an environment."""
        kind, hyperparameters = algorithm_class(self.name), settings.for_algorithm()
        if settings.linear_decay:
            hyperparameters["learning_rate"] = falling_rate(kind, hyperparameters, watch)
        hyperparameters["policy_kwargs"] = self.policy_kwargs(settings)
        return made(self.name, self.policy, env, seed, device, hyperparameters)

    def policy_kwargs(self, settings: SB3Settings) -> dict[str, Any]:
        """The policy's arguments, as SB3 takes them."""
        return mlp_policy(settings.hyperparameters.get("policy_kwargs", {}), settings.sketch)

    def edit(self, env: gym.Env) -> EditJournal:
        """One episode with the policy's deterministic action."""
        if self.model is None:
            raise RuntimeError(f"{self.name} has no policy yet: call learn() or load() first")
        observation, _ = env.reset()
        # A batch of a stream is edited once, so no edit refines another.
        refine = 1.0 if is_stream(env) else self.settings.refine
        over, factor, state, first = False, 1.0, None, np.ones(1, dtype=bool)
        while not over:
            action, state = self.model.predict(observation, state, first, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(factor * action)
            over, factor, first = terminated or truncated, refine, np.zeros(1, dtype=bool)
        return edit_env(env).journal

    def save(self, folder: Path) -> None:
        """Write the configuration, the settings that it was trained with, and SB3's zip file, each
        completely or not at all.
        """
        if self.model is None:
            raise RuntimeError(f"{self.name} has nothing to save: call learn() first")
        write_config(folder, self.config)
        write_settings(folder, self.settings)
        save_model(self.model, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        SB3's zip file holds pickled objects: load only files that you trust.

        Raises:
            FileNotFoundError: There is none in `folder`.
            ValueError: It was saved by code that it can no longer be read with.
        """
        agent = cls(**read_config(folder))
        if (trained_with := read_settings(folder)) is not None:
            agent.settings = cls.settings_type.of(trained_with)
        agent.model = load_model(algorithm_class(agent.name), folder)
        return agent


SB3Agent.__signature__ = signature(SB3Settings)  # type: ignore[attr-defined]
