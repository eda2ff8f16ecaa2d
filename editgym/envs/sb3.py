"""Let Stable-Baselines3 train on a Gymnasium `VectorEnv`, which it has no adapter for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices


class SharedVecEnv(VecEnv):
    """A `VecEnv` whose slots are all served by one environment, `env`."""

    env: Any

    def shared_options(self) -> dict[str, Any]:
        """The options of the next reset, which are those of every slot.

        Raises:
            ValueError: `set_options` was given different ones for different slots.
        """
        first = self._options[0]
        for slot, own in enumerate(self._options):
            if own != first:
                raise ValueError(
                    "set_options: all slots are served by one environment, so their options must be"
                    f" equal; got {first!r} for slot 0 and {own!r} for slot {slot}"
                )
        return first

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The environment's attribute, once per slot."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute where it is: all slots share one environment.

        Raises:
            AttributeError: There is no such attribute; setting it would change nothing.
        """
        env = self.env
        while not _can_set(env, attr_name):
            if not hasattr(env, "env"):
                raise AttributeError(
                    f"{type(env).__name__} has no attribute {attr_name!r} to set: arguments of an"
                    " environment are given to gym.make_vec"
                )
            env = env.env
        setattr(env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the environment once; every slot gets its result."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Slots have no wrappers of their own."""
        return [False for _ in self._get_indices(indices)]


class SB3VectorEnv(SharedVecEnv):
    """A Gymnasium `VectorEnv` with `SAME_STEP` autoreset as a Stable-Baselines3 `VecEnv`.

    Args:
        env: What `gym.make_vec` returned.

    Raises:
        ValueError: The environment is a single one, or resets in another way, which SB3 would
            misread.

    Example:
        >>> import gymnasium as gym, editgym
        >>> from stable_baselines3 import PPO
        >>> env = monitored(gym.make_vec("MaskWorld-v1", num_envs=64))
        >>> model = PPO("MlpPolicy", env, n_steps=16)
    """

    def __init__(self, env: VectorEnv) -> None:
        if not isinstance(env, VectorEnv):
            raise ValueError(
                f"env must be what gym.make_vec returns, got {env!r}: give SB3 a single"
                " environment as it is, or gym.make_vec(id, num_envs=1)"
            )
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(
                "env must reset in AutoresetMode.SAME_STEP, got"
                f" {env.metadata.get('autoreset_mode')}: a world's gym.make_vec(id, num_envs=K)"
                " does, without vectorization_mode"
            )
        self.env = env
        self._actions: NDArray[Any] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Observations (K, size); seeds given by `seed()` and options are used once.

        Raises:
            ValueError: Different slots were given different options.
        """
        seeds = (
            None
            if self._seeds[0] is None
            else [int(seed) for seed in self._seeds if seed is not None]
        )
        observations, infos = self.env.reset(seed=seeds, options=self.shared_options() or None)
        self.reset_infos = _rows(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations, rewards (float32), dones, and infos of the steps: `TimeLimit.truncated`,
        and `terminal_observation` where an episode ended. `reset_infos` has those of the episodes
        that began.
        """
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = np.logical_or(terminated, truncated)
        rows = _rows(infos, self.num_envs)
        for i in np.flatnonzero(dones):
            fresh, rows[i] = rows[i], rows[i].pop("final_info", {})
            rows[i]["terminal_observation"] = fresh.pop("final_obs")
            if "episode" in fresh:  # a wrapper has added what the ended episode was worth
                rows[i]["episode"] = fresh.pop("episode")
            self.reset_infos[i] = fresh
        for row, cut in zip(rows, truncated & ~terminated, strict=True):
            row["TimeLimit.truncated"] = bool(cut)
        return observations, rewards.astype(np.float32), dones, rows

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One frame per candidate."""
        return list(self.env.render() or ())


def monitored(env: VectorEnv) -> VecMonitor:
    """The environment for SB3, with episode returns and lengths in its logs."""
    return VecMonitor(SB3VectorEnv(env))


def _can_set(env: Any, name: str) -> bool:
    """Whether an environment, or wrapper, has an attribute of its own that can be set."""
    of_class = getattr(type(env), name, None)
    if isinstance(of_class, property):
        return of_class.fset is not None
    return name in vars(env) or of_class is not None


def _rows(infos: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Gymnasium's dict of arrays as SB3's list of dicts: plain numbers, what is nested too, each in
    the slots that its mask `_key` says it is there for.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(number)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        if isinstance(values, dict):
            column = _rows(values, number)
        elif isinstance(values, np.ndarray):
            column = values.tolist() if values.ndim == 1 else list(values)
        else:  # one for all
            column = [values] * number
        for i in np.flatnonzero(infos.get(f"_{key}", np.ones(number))):
            rows[i][key] = column[i]
    return rows
