"""ShiftWorld: edit a network by adding to its weights, W + Δ."""

from __future__ import annotations

from typing import Any

from gymnasium.utils import EzPickle

from editgym.envs.worlds.env import WeightEditingEnv
from editgym.envs.worlds.vector import WeightEditingVectorEnv
from editgym.weights import Shift


class ShiftWorldEnv(WeightEditingEnv):
    """Add to a network's weights so that it forgets what it should and keeps the rest.

    As `MaskWorldEnv` in every respect — observation, action, reward, end, info and arguments — but
    for the transition of Malik's (arXiv 2606.13461) second environment:

    **Transition** — W ← W + `shift_limit`·D with D = clip(A·B/√rank, −1, 1), the paper's box ±0.05
    by default. Edits compound within an episode.

    Args:
        task: As in `MaskWorldEnv`.
        render_mode: As in `MaskWorldEnv`.
        shift_limit: The most that one step adds to a weight; greater than 0.
        **arguments: As in `MaskWorldEnv`.

    Raises:
        ValueError: An argument is unknown or out of range; the message names it and what would be
            right.

    Example:
        >>> import gymnasium as gym, editgym
        >>> env = gym.make("ShiftWorld-v0", shift_limit=0.1, episode_length=2)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        >>> terminated
        False
    """

    def __init__(
        self,
        task: str = "unlearning/digits",
        render_mode: str | None = None,
        shift_limit: float = 0.05,
        **arguments: Any,
    ) -> None:
        EzPickle.__init__(self, task, render_mode, shift_limit, **arguments)
        super().__init__(Shift(shift_limit), task, render_mode, **arguments)


class ShiftWorldVectorEnv(WeightEditingVectorEnv):
    """K candidates of `ShiftWorldEnv` in one process on one device; `gym.make_vec("ShiftWorld-v0",
    num_envs=K)`.

    Args:
        num_envs: K.
        task: As in `MaskWorldEnv`.
        render_mode: As in `MaskWorldEnv`.
        shared_batch: Whether all candidates are scored on one batch: faster, and a different
            environment.
        shift_limit: As in `ShiftWorldEnv`.
        **arguments: As in `MaskWorldEnv`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "unlearning/digits",
        render_mode: str | None = None,
        shared_batch: bool = False,
        shift_limit: float = 0.05,
        **arguments: Any,
    ) -> None:
        super().__init__(Shift(shift_limit), num_envs, task, render_mode, shared_batch, **arguments)
