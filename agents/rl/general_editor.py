"""One policy for every class and every network of a shape: PPO with an equivariant policy network.

The policy sees observations alone: the edited weights, those of the layer after them
(`observe_parameters`), and the goal (`observe_task`). Where actions are factors of an update it
describes units and gives their parts of the factors (`agents.rl.equivariant`); where an action is
the update itself it describes every weight (`agents.rl.exchangeable`), and sees two biases too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from agents.configured import setting
from agents.episodes import is_improving
from agents.protocol import Unsupported
from agents.rl.agent import SB3Agent
from agents.rl.equivariant import EditorShape, EquivariantEdit, EquivariantPolicy, distinct
from agents.rl.exchangeable import EveryEntry, MatrixShape
from agents.rl.policies import RefiningEdits
from agents.rl.settings import SB3Settings
from editgym.checks import one_of, whole
from editgym.envs.sb3 import monitored
from editgym.weights import ActionLayout

# One network shared by all units is learned from many edits: smaller rollouts, more of them, and
# less noise than where one edit is learned by heart.
_PRESET: dict[str, Any] = {
    "rollout": 512,
    "batch_size": 512,
    "learning_rate": 5e-3,
    "final_log_std": -2.5,
    "policy_kwargs": {"log_std_init": -1.5},
}


class ContextualEdits(RefiningEdits):
    """`RefiningEdits` where candidates edit several networks for several goals: each is judged by
    its own kind.

    Rewards differ more between classes and networks than between edits, so the baseline is the mean
    over the candidates whose episode began with the same observation.
    """

    def __init__(self, venv: VecEnv, refine: float, improving: bool) -> None:
        super().__init__(venv, refine, improving, baseline=False)
        self._kinds = np.zeros(venv.num_envs, dtype=np.int64)

    def reset(self) -> VecEnvObs:
        """Begin episodes."""
        observations = super().reset()
        self._kinds = _kinds(observations)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """What the environments gave, with improvements over the mean of their kind in place of
        rewards.
        """
        observations, gain, dones, infos = super().step_wait()
        means = np.bincount(self._kinds, gain) / np.maximum(np.bincount(self._kinds), 1)
        gain = (gain - means[self._kinds]).astype(np.float32)
        if dones.all():
            self._kinds = _kinds(observations)
        return observations, gain, dones, infos


@dataclass(frozen=True, kw_only=True)
class GeneralSettings(SB3Settings):
    """The settings of `GeneralEditor`, which says what they are."""

    hidden: int = setting(32, whole(1))
    signed: bool = setting(True, one_of(False, True))


class GeneralEditor(SB3Agent):
    """PPO that learns to edit for any goal in any network of one shape, from rewards on some of
    them.

    Learn it on an environment with `goals`, `networks`, `observe_task=True` and
    `observe_parameters`; `edit` then needs no further learning in another one of that shape. It is
    not in the catalogue, whose agents learn where they are tested: its import path is
    `agents.rl.general_editor:GeneralEditor`.

    Args:
        algorithm: Only `"ppo"`.
        hidden: Width of the networks that all units, or all weights, share.
        signed: Whether a weight may go both ways, where an action is the update itself; else it is
            only taken away from, as by a mask.
        start: Standard deviation of A at first.
        num_envs: How many candidates learn at a time; None for `rollout` / `n_steps`.
        rollout: Reward calls between two updates, in whole episodes, by default 512.
        shared_batch: Whether the candidates of a step are compared on one batch while learning.
        refine: Factor on every action after an episode's first.
        train_env: Not used: it is for streams of facts.
        sketch: Not used: the policy sees all numbers.
        linear_decay: Whether the learning rate falls linearly to 0 over the budget.
        final_log_std: Where the logarithm of the policy's standard deviation is led, linearly over
            the budget, by default to −2.5.
        **hyperparameters: Arguments of SB3's `PPO`; of `policy_kwargs` it takes `log_std_init`.

    Raises:
        ValueError: The algorithm is another one, or a setting is out of its range.
    """

    settings_type: ClassVar[type[SB3Settings]] = GeneralSettings
    policy_takes: ClassVar[Sequence[str] | None] = ("log_std_init",)
    settings: GeneralSettings
    _edits: tuple[type[BaseFeaturesExtractor], dict[str, Any]]

    def __init__(self, algorithm: str = "ppo", **settings: Any) -> None:
        if algorithm != "ppo":
            raise ValueError(f"algorithm: the general editor is learned by ppo, got {algorithm!r}")
        super().__init__(algorithm, **settings)

    def tuned(self, spec: EnvSpec) -> dict[str, Any]:
        """PPO's preset, with what is the general editor's own."""
        return {**super().tuned(spec), **_PRESET}

    def policy_kwargs(self, settings: SB3Settings) -> dict[str, Any]:
        """The arguments of the equivariant policy, as SB3 takes them."""
        assert isinstance(settings, GeneralSettings)
        return {
            **settings.hyperparameters.get("policy_kwargs", {}),
            "net_arch": [],
            "ortho_init": False,
            "features_extractor_class": self._edits[0],
            "features_extractor_kwargs": self._edits[1],
        }

    @property
    def policy(self) -> str | type[ActorCriticPolicy]:
        """The kind of policy."""
        return EquivariantPolicy

    def training_env(
        self, env_spec: EnvSpec, settings: SB3Settings, layout: ActionLayout, seed: int
    ) -> tuple[VecEnv, torch.Tensor | None]:
        """The environments to learn in; the policy has a start of its own.

        Raises:
            Unsupported: The environment has no batched form, or observes something else.
        """
        if env_spec.vector_entry_point is None:
            raise Unsupported(
                f"{env_spec.id} has no vector environment for the general editor to train on"
            )
        assert settings.num_envs is not None
        assert isinstance(settings, GeneralSettings)
        worlds = gym.make_vec(
            env_spec, num_envs=settings.num_envs, shared_batch=settings.shared_batch
        )
        space, given = worlds.single_observation_space, {"hidden": settings.hidden}
        if layout.rank == "full":
            shape = asdict(MatrixShape.of(layout, space))
            self._edits = EveryEntry, {"shape": shape, "signed": settings.signed, **given}
        else:
            shape = asdict(EditorShape.of(layout, space))
            self._edits = EquivariantEdit, {"shape": shape, "start": float(settings.start), **given}
        improving = is_improving(env_spec)
        return ContextualEdits(monitored(worlds), settings.refine, improving), None


def _kinds(observations: VecEnvObs) -> np.ndarray:
    return distinct(torch.from_numpy(np.asarray(observations)))[1].numpy()
