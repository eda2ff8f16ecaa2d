"""Retraining, the oracle of unlearning."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from agents.configured import ConfiguredAgent
from agents.episodes import replace
from agents.protocol import Access, Budget, Unsupported
from agents.unlearning.episode import start, unlearning_task
from editgym.weights import EditJournal


class Retrain(ConfiguredAgent):
    """The oracle: the same recipe and seed on the training data without what is to be forgotten.

    It takes no arguments. The retrained network is the task's own, and is made once: for a network
    of one's own by the function that is given as `retrain=`
    (`editgym.tasks.unlearning.own_oracle`).
    """

    name = "retrain"
    access: ClassVar[Access] = "oracle"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing to learn.

        Raises:
            Unsupported: The task's network was not trained here, so its retrained twin cannot be
                made.
        """
        with closing(gym.make(env_spec)) as env:
            task = unlearning_task(env)
        if task.retrain is None:
            raise Unsupported(
                f"{task.name}: the network was trained elsewhere, so it cannot be retrained without"
                " the forgotten data; a function that trains it is given as retrain=, where the"
                " task takes that (unlearning/custom)"
            )

    def edit(self, env: gym.Env) -> EditJournal:
        """Put the retrained network in place of the one of a fresh episode."""
        task, network, goal = start(env)
        oracle = task.oracle([n.base_hash for n in task.networks].index(network.base_hash), goal)
        if oracle is None:
            raise Unsupported(f"{task.name} cannot be retrained")
        return replace(env, oracle.state_dict())
