"""An agent of one's own: five methods, a name, its access, and settings with ranges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from agents.configured import ConfiguredAgent, Settings, setting
from agents.protocol import Access, Budget
from editgym.checks import within
from editgym.envs.protocol import edit_env
from editgym.weights import EditJournal


@dataclass(frozen=True, kw_only=True)
class SmallEditSettings(Settings):
    """What `SmallRandomEdit` takes."""

    size: float = setting(0.1, within(0, 1))


class SmallRandomEdit(ConfiguredAgent):
    """The better of two small random edits.

    Args:
        size: The largest number of an edit, from 0 to 1; 0.1 by default.
    """

    name = "small_random_edit"
    access: ClassVar[Access] = "reward"
    settings_type: ClassVar[type[Settings]] = SmallEditSettings
    settings: SmallEditSettings

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Try two edits, for two reward calls."""
        env, tried = gym.make(env_spec), []
        env.action_space.seed(seed)
        for _ in range(min(2, budget.reward_calls or 2)):
            env.reset(seed=seed)
            action = self.settings.size * env.action_space.sample()
            tried.append((float(env.step(action)[1]), action))
        self._best: np.ndarray = max(tried, key=lambda scored: scored[0])[1]
        env.close()

    def edit(self, env: gym.Env) -> EditJournal:
        """Make the better edit."""
        env.reset()
        env.step(self._best)
        return edit_env(env).journal

    def save(self, folder: Path) -> None:
        """Write settings and edit."""
        super().save(folder)
        np.save(folder / "best.npy", self._best)

    @classmethod
    def load(cls, folder: Path) -> SmallRandomEdit:
        """Read the agent that `save` wrote."""
        agent = super().load(folder)
        agent._best = np.load(folder / "best.npy")
        return agent
