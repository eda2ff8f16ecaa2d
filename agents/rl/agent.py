"""Every continuous-action algorithm of Stable-Baselines3 and sb3-contrib as an agent, by name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from torch import nn
from tqdm import tqdm

from agents.configured import read_config, write_config
from agents.protocol import Access, Budget, Stopwatch, Unsupported
from agents.rl.budget import (
    UNLIMITED,
    LinearDecay,
    NoiseSchedule,
    check_learns,
    check_settings,
    steps_between_updates,
    whole_rollouts,
)
from agents.rl.candidate_stream import CandidateStream
from agents.rl.policies import (
    RefiningEdits,
    WeightSketch,
    lora_start,
    set_mean_action,
    silence_critic,
)
from agents.rl.presets import CLASSES, REFINE, preset
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv
from editgym.envs.sb3 import monitored
from editgym.weights import ActionLayout, EditJournal

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
_CHECKPOINT_CALLS = 10_000
_OF_ENVIRONMENTS = ("num_envs", "shared_batch", "start", "refine", "train_env")


class SB3Agent:
    """A Stable-Baselines3 algorithm that learns on K candidates at once.

    Args:
        algorithm: A key of `agents.rl.presets.CLASSES`.
        **settings: JSON values; those left out come from the preset of algorithm and task
            (`agents.rl.presets`). Hyperparameters of the SB3 class (`learning_rate`, `n_steps`,
            `batch_size`, …; `policy_kwargs` with `net_arch`, `activation_fn` as `"relu"`, `"tanh"`
            or `"elu"`, `log_std_init`, …), and:

            - `num_envs`: K.
            - `rollout`: reward calls between two updates of an on-policy algorithm; where `n_steps`
              is not given it is one episode, where `num_envs` is not given it is `rollout` /
              `n_steps`.
            - `shared_batch`: whether the candidates of a step are compared on one batch while
              learning: what differs between two rewards is then the edit alone (common random
              numbers).
            - `start`: standard deviation of A in the LoRA start of the policy's mean action
              (`agents.rl.policies.lora_start`); 0 leaves SB3's own start. On streams of facts any
              other number starts at the training-free update.
            - `train_env`: arguments of the environment, other than those of the one that is edited,
              while learning on a stream of facts.
            - `refine`: factor on every action after an episode's first
              (`agents.rl.policies.RefiningEdits`).
            - `sketch`: how many numbers the policy sees of the weights
              (`agents.rl.policies.WeightSketch`); 0 for all.
            - `linear_decay`: whether the learning rate falls linearly to 0 over the budget.
            - `final_log_std`: where the logarithm of a Gaussian policy's standard deviation is led,
              linearly over the budget, from `log_std_init`; None leaves it to the algorithm.

    Raises:
        ValueError: There is no such algorithm.
    """

    access: ClassVar[Access] = "reward"
    name = "sb3"

    def __init__(self, algorithm: str = "ppo", **settings: Any) -> None:
        if algorithm not in CLASSES:
            raise ValueError(
                f"algorithm: there is no {algorithm!r}; choose from {', '.join(CLASSES)}"
            )
        self.name = algorithm
        self.config: dict[str, Any] = {"algorithm": algorithm, **settings}
        self.model: BaseAlgorithm | None = None

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
        settings = self.settings(env_spec)
        steps = steps_between_updates(
            algorithm_class(self.name), settings, _episode_length(env_spec, settings)
        )
        calls = whole_rollouts(budget.reward_calls, settings["num_envs"] * steps)
        check_learns(settings, calls)
        env, start = self._training_env(env_spec, settings, seed)
        try:
            self.train(
                env,
                start,
                settings,
                Budget(calls, budget.seconds),
                seed,
                env_spec.kwargs.get("device", "cpu"),
                out,
            )
        finally:
            env.close()

    def _training_env(
        self, env_spec: EnvSpec, settings: dict[str, Any], seed: int
    ) -> tuple[VecEnv, torch.Tensor | None]:
        """The environments to learn in, and the policy's first mean action; None leaves that to
        SB3.
        """
        if env_spec.vector_entry_point is not None:
            worlds = gym.make_vec(
                env_spec, num_envs=settings["num_envs"], shared_batch=settings["shared_batch"]
            )
            return self.refining(monitored(worlds), settings), _lora_start(
                worlds, settings["start"], seed
            )
        env = gym.make(env_spec, **settings["train_env"]).unwrapped
        if not isinstance(env, LifelongLLMEditEnv):
            raise Unsupported(
                f"{env_spec.id} has no vector environment for {self.name} to train on"
            )
        stream = CandidateStream(env, settings["num_envs"], baseline=self._on_policy)
        return VecMonitor(stream), (
            torch.from_numpy(env.training_free_action()) if settings["start"] else None
        )

    @property
    def _on_policy(self) -> bool:
        return issubclass(algorithm_class(self.name), OnPolicyAlgorithm)

    @property
    def policy(self) -> str | type[ActorCriticPolicy]:
        """The kind of policy, as SB3 takes it."""
        return "MlpLstmPolicy" if self.name == "recurrent_ppo" else "MlpPolicy"

    def refining(self, env: VecEnv, settings: dict[str, Any]) -> RefiningEdits:
        """Environments as this agent learns in them."""
        return RefiningEdits(env, settings["refine"], baseline=self._on_policy)

    def train(
        self,
        env: VecEnv,
        start: torch.Tensor | None,
        settings: dict[str, Any],
        budget: Budget,
        seed: int,
        device: str,
        out: Path | None = None,
    ) -> None:
        """Train on any SB3 vector environment; what `learn` does after making one.

        Args:
            env: With `settings["num_envs"]` slots whose episodes end together.
            start: The policy's first mean action, or None.
            settings: From `settings`.
            budget: With `reward_calls` that make whole rollouts.
            seed: Of the policy and its noise.
            device: Of the policy.
            out: Where checkpoints go.
        """
        settings = {key: value for key, value in settings.items() if key not in _OF_ENVIRONMENTS}
        final_log_std, watch = settings.pop("final_log_std"), Stopwatch(budget.seconds)
        if settings.pop("linear_decay"):
            settings["learning_rate"] = LinearDecay(settings["learning_rate"], watch)
        self.model = self.build(env, settings, seed, device)
        if start is not None:
            set_mean_action(self.model, start)
        if settings.get("vf_coef") == 0:
            silence_critic(self.model)
        calls = UNLIMITED if budget.reward_calls is None else budget.reward_calls
        progress = _Progress(self, calls, watch, out)
        anneal = [] if final_log_std is None else [NoiseSchedule(final_log_std, watch)]
        try:
            self.model.learn(calls, callback=[progress, *anneal])
        except _BudgetSpentError:
            pass
        finally:
            progress.close()

    def settings(self, env_spec: EnvSpec) -> dict[str, Any]:
        """The preset with what this agent was given instead, and `num_envs` and `n_steps` settled.

        Raises:
            ValueError: Neither `rollout` nor `num_envs` is given, or a setting is none of its kind.
        """
        own = {key: value for key, value in self.config.items() if key != "algorithm"}
        settings = {**preset(self.name, _task(env_spec)), **own}
        rollout = settings.pop("rollout")
        if rollout is not None:
            check_settings({**settings, "rollout": rollout})
            settings.setdefault("n_steps", _episode_length(env_spec, settings))
            settings.setdefault("num_envs", max(1, rollout // settings["n_steps"]))
        if "num_envs" not in settings:
            raise ValueError(
                "num_envs: expected a number of candidates, or a rollout to divide; got neither"
            )
        check_settings(settings)
        if isinstance(settings.get("train_freq"), list):  # as JSON has it
            settings["train_freq"] = tuple(settings["train_freq"])
        return settings

    def edit(self, env: gym.Env) -> EditJournal:
        """One episode with the policy's deterministic action."""
        if self.model is None:
            raise RuntimeError(f"{self.name} has no policy yet: call learn() or load() first")
        observation, _ = env.reset()
        # A batch of a stream is edited once, so no edit refines another.
        refine = (
            1.0
            if isinstance(env.unwrapped, LifelongLLMEditEnv)
            else self.config.get("refine", REFINE)
        )
        over, factor, state, first = False, 1.0, None, np.ones(1, dtype=bool)
        while not over:
            action, state = self.model.predict(observation, state, first, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(factor * action)
            over, factor, first = terminated or truncated, refine, np.zeros(1, dtype=bool)
        return env.unwrapped.journal  # type: ignore[attr-defined]

    def save(self, folder: Path) -> None:
        """Write the configuration and SB3's zip file, completely or not at all."""
        if self.model is None:
            raise RuntimeError(f"{self.name} has nothing to save: call learn() first")
        write_config(folder, self.config)
        partial = folder / "model.partial.zip"
        self.model.save(partial)
        partial.replace(folder / "model.zip")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        SB3's zip file holds pickled objects: load only files that you trust.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        agent = cls(**read_config(folder))
        agent.model = algorithm_class(agent.name).load(folder / "model.zip", device="cpu")
        return agent

    def build(self, env: VecEnv, settings: dict[str, Any], seed: int, device: str) -> BaseAlgorithm:
        """The untrained SB3 algorithm for an environment, from the settings that are about it and
        its policy.

        Raises:
            ValueError: The algorithm does not take one of the settings, or there is no such
                activation function.
        """
        kind = algorithm_class(self.name)
        settings = dict(settings)
        policy_kwargs = dict(settings.pop("policy_kwargs", {}))
        if "activation_fn" in policy_kwargs:
            activation = policy_kwargs["activation_fn"]
            if activation not in ACTIVATIONS:
                raise ValueError(
                    f"activation_fn: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}"
                )
            policy_kwargs["activation_fn"] = ACTIVATIONS[activation]
        if sketch := settings.pop("sketch"):
            policy_kwargs |= {
                "features_extractor_class": WeightSketch,
                "features_extractor_kwargs": {"size": sketch},
            }
        unknown = sorted(set(settings) - set(inspect.signature(kind).parameters))
        if unknown:
            raise ValueError(
                f"{self.name} takes no hyperparameter {', '.join(unknown)}; it takes "
                f"{', '.join(inspect.signature(kind).parameters)}"
            )
        return kind(
            self.policy, env, seed=seed, device=device, policy_kwargs=policy_kwargs, **settings
        )


class _BudgetSpentError(Exception):
    """Ends the learning of algorithms that do not ask their callback whether to go on."""


class _Progress(BaseCallback):
    """A progress bar, checkpoints, and the end of the budget."""

    def __init__(self, agent: SB3Agent, calls: int, watch: Stopwatch, out: Path | None) -> None:
        super().__init__()
        self._agent, self._calls, self._watch, self._out = agent, calls, watch, out
        self._bar = tqdm(
            total=None if calls >= UNLIMITED else calls,
            desc=agent.name,
            unit="call",
            leave=False,
            mininterval=0.5,
        )
        self._saved = 0

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        if self._watch.expired:
            if self._agent.name == "ars":  # its loop goes on after a False
                raise _BudgetSpentError
            return False
        return True

    def _on_rollout_end(self) -> None:
        if self._out is not None and self.num_timesteps - self._saved >= _CHECKPOINT_CALLS:
            self._agent.save(self._out)
            self._saved = self.num_timesteps

    def close(self) -> None:
        """End the bar; with `out`, write what was learned so far, also after Ctrl-C."""
        self._bar.close()
        if self._out is not None and self.num_timesteps:
            self._agent.save(self._out)


def _task(env_spec: EnvSpec) -> str:
    """The task's name; of the environments' own tasks, only the stream's has a preset of its
    own.
    """
    return str(
        env_spec.kwargs.get("task", "" if env_spec.vector_entry_point else "knowledge/factworld")
    )


def _episode_length(env_spec: EnvSpec, settings: dict[str, Any]) -> int:
    if env_spec.vector_entry_point is not None:
        return int(env_spec.kwargs.get("episode_length", 1))
    return int((env_spec.kwargs | settings["train_env"]).get("horizon", 20))


def _lora_start(worlds: VectorEnv, start: float, seed: int) -> torch.Tensor | None:
    layout: ActionLayout = worlds.layout  # type: ignore[attr-defined]
    return lora_start(layout, start, torch.Generator().manual_seed(seed)) if start else None


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
