"""Train a policy on a stream of edits: K actions for one state, scored in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from editgym.envs.lifelong.reward import REWARD_FLOOR
from editgym.envs.protocol import CandidateEnv, candidate_env
from editgym.envs.sb3 import SharedVecEnv


class CandidateStream(SharedVecEnv):
    """One `LifelongLLMEdit` with K slots: each action is scored on the same state, and their
    mean is applied.

    K separate streams would cost as much, but their rewards would differ mostly by what was edited
    before: the look back of the reward judges the last batches anew in every step. Here two rewards
    of a step differ by the actions alone, and their mean is an exact baseline (as in RLOO and
    GRPO). Applying the mean action keeps the noise that is needed to learn out of the weights,
    where the noise of a whole episode would add up. What an action does to edits made after it is
    not in its reward, so agents learn with a discount of 0.

    Args:
        env: With coefficients as actions, on an open stream.
        candidates: How many slots there are, K.
        baseline: Whether to take off the candidates' mean. Only for on-policy learning: in a replay
            buffer, rewards less the mean of different policies cannot be compared.

    Raises:
        Unsupported: The environment does not score many actions on one state.
        ValueError: Actions are factors.
    """

    env: CandidateEnv

    def __init__(self, env: gym.Env, candidates: int, baseline: bool = True) -> None:
        self.env, self._gym = candidate_env(env), env
        if self.env.action_form != "coefficients":
            raise ValueError(
                'action must be "coefficients": clipped factors cannot be scored many at a time'
            )
        self.baseline = (
            baseline and candidates > 1
        )  # one candidate less its own mean would always be 0
        self._actions: NDArray[np.float32] | None = None
        super().__init__(candidates, self.env.observation_space, self.env.action_space)

    def reset(self) -> VecEnvObs:
        """Begin a stream.

        Raises:
            ValueError: Different slots were given different options.
        """
        seed, options = self._seeds[0], self.shared_options() or None
        observation = self._began(
            *self._gym.reset(seed=None if seed is None else int(seed), options=options)
        )
        self._reset_seeds()
        self._reset_options()
        return self._repeated(observation)

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Rewards, less their mean with `baseline`; observations after the mean action."""
        assert self._actions is not None
        count = self.num_envs
        try:
            rewards = self.env.candidate_rewards(self._actions.astype(np.float32)).cpu().numpy()
        except FloatingPointError:  # the model has collapsed, as in a step of the environment
            rewards = np.full(count, REWARD_FLOOR, np.float32)
        rewards = rewards - rewards.mean() if self.baseline else rewards
        observation, over, info = self.env.follow(self._actions.mean(axis=0))
        told = {**info, "TimeLimit.truncated": False}
        if over:
            told["terminal_observation"] = observation
            observation = self._began(*self._gym.reset())
        infos = [dict(told) for _ in range(count)]
        return self._repeated(observation), rewards.astype(np.float32), np.full(count, over), infos

    def close(self) -> None:
        """Close the environment."""
        self._gym.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """One frame for all slots."""
        frame: Any = self._gym.render()
        return [frame]

    def _began(self, observation: Any, info: dict[str, Any]) -> Any:
        """Keep the info of a stream's beginning for every slot; its first observation."""
        self.reset_infos = [dict(info) for _ in range(self.num_envs)]
        return observation

    def _repeated(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.repeat(observation[None], self.num_envs, axis=0)
