"""The classes of Stable-Baselines3 and sb3-contrib behind the algorithms' names."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from agents.rl.policies import mlp_policy
from agents.rl.presets import CLASSES
from agents.rl.settings import SB3Settings
from editgym.checks import is_finite, require, require_known

# What an agent gives an algorithm: environment and policy, the environment's device, `learn`'s
# seed; and what it gives a policy. Beside them, what no JSON value is.
_GIVEN = (
    *("policy", "env", "device", "seed", "_init_setup_model"),
    *("action_noise", "replay_buffer_class", "rollout_buffer_class", "rollout_buffer_kwargs"),
)
_GIVEN_TO_POLICY = (
    *("observation_space", "action_space", "lr_schedule"),
    *("features_extractor_class", "features_extractor_kwargs", "optimizer_class"),
)


def algorithm_class(algorithm: str) -> type[BaseAlgorithm]:
    """The SB3 or sb3-contrib class of an algorithm; of ARS, one that counts its reward calls.

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
    if name == "ARS":
        from agents.rl.ars import CountedARS  # it is one of sb3-contrib's

        return CountedARS
    return getattr(sb3_contrib, name)


def check_settings(
    name: str,
    settings: SB3Settings,
    policy: str | type[BasePolicy],
    policy_takes: Collection[str] | None = None,
) -> SB3Settings:
    """Settings that an algorithm and its policy take, as they were.

    Args:
        name: The algorithm's name.
        settings: What it is to learn with.
        policy: The policy, or its name in SB3.
        policy_takes: What the policy takes of `policy_kwargs`; None asks the policy.

    Raises:
        ValueError: One of them does not take a setting; the message names it, its value, and those
            that would be right.
    """
    try:
        kind = algorithm_class(name)
    except ImportError:  # without sb3-contrib nobody learns with it, and learning says so
        return settings
    own = settings.as_dict().keys() - settings.hyperparameters.keys()
    check_takes(name, kind, settings.hyperparameters, sorted(own))
    if not issubclass(kind, OnPolicyAlgorithm):
        for only in ("rollout", "final_log_std"):
            value, right = getattr(settings, only), f"None: {name} does not learn from rollouts"
            require(value is None, only, value, right)
    _check_together(name, kind, settings)
    given = settings.hyperparameters.get("policy_kwargs", {})
    if policy_takes is None:
        policy = kind.policy_aliases[policy] if isinstance(policy, str) else policy
        policy_takes = _takes(policy, _GIVEN_TO_POLICY)
        mlp_policy(given, 0)  # knows the activation functions
    require_known(f"the policy of {name} takes no argument", given, policy_takes)
    return settings


def _check_together(name: str, kind: type[BaseAlgorithm], settings: SB3Settings) -> None:
    """Refuse hyperparameters that SB3 refuses for one algorithm, or beside another one, and that
    only once it learns.
    """
    given, on_policy = settings.hyperparameters, issubclass(kind, OnPolicyAlgorithm)
    if on_policy and "ent_coef" in given:
        right = f"a finite number: {name} does not learn it"
        require(is_finite(given["ent_coef"]), "ent_coef", given["ent_coef"], right)
    if name == "ppo" and given.get("normalize_advantage", True):
        right = "2 or more, as advantages are normalized over a batch, or normalize_advantage false"
        require(given.get("batch_size") != 1, "batch_size", 1, right)
    frequency = given.get("train_freq")
    if isinstance(frequency, list | tuple) and frequency[1] == "episode":
        right = f"in steps, as {settings.num_envs} candidates learn at a time, or num_envs 1"
        require(settings.num_envs in (None, 1), "train_freq", frequency, right)


def made(
    name: str,
    policy: str | type[BasePolicy],
    env: VecEnv,
    seed: int,
    device: str,
    given: Mapping[str, Any],
) -> BaseAlgorithm:
    """An algorithm of SB3, untrained.

    Args:
        name: Its name.
        policy: The policy, or its name in SB3.
        env: What it is to learn in.
        seed: Seed of the policy and its noise.
        device: Torch device of the policy.
        given: The hyperparameters, as SB3 takes them.

    Raises:
        ValueError: SB3 refuses a value.
    """
    try:
        return algorithm_class(name)(policy, env, seed=seed, device=device, **given)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"{name} cannot be made with the hyperparameters {dict(given)}: {error}"
        ) from error


def check_takes(
    name: str, kind: type[BaseAlgorithm], given: Mapping[str, Any], own: Collection[str] = ()
) -> None:
    """Refuse hyperparameters that an algorithm does not take.

    Args:
        name: The algorithm's name, for messages.
        kind: Its class.
        given: The hyperparameters.
        own: Names of the agent's own settings, which an unknown name may be meant for.

    Raises:
        ValueError: It does not take one of them.
    """
    require_known(f"{name} takes no hyperparameter", given, [*own, *_takes(kind, _GIVEN)])


def _takes(kind: type, given: Collection[str]) -> list[str]:
    """The arguments of a class, but for those that are given to it."""
    return [one for one in inspect.signature(kind).parameters if one not in given]
