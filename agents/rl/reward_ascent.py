"""Ascent on the reward's own gradient: what a box of actions and a reward can hold."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import torch
from gymnasium.envs.registration import EnvSpec
from tqdm import trange

from agents.black_box import OpenLoopAgent
from agents.configured import Settings, setting
from agents.episodes import steps_of
from agents.protocol import Access, Budget, Stopwatch
from agents.rl.policies import lora_start
from editgym.checks import above, at_least, whole
from editgym.envs.protocol import gradient_world
from editgym.models.training import one_thread


@dataclass(frozen=True, kw_only=True)
class RewardAscentSettings(Settings):
    """The settings of `RewardAscent`, which says what they are."""

    steps: int = setting(400, whole(1))
    learning_rate: float = setting(0.02, above(0))
    start: float = setting(0.5, at_least(0))


class RewardAscent(OpenLoopAgent):
    """Adam (Kingma and Ba 2015) on the gradient of an episode's rewards by its actions.

    No policy is learned: the result is one fixed sequence of actions, as CMA-ES finds it from
    rewards alone. Agents that see less are measured against it. An episode's later edits are
    differentiated by themselves, not through the earlier ones.

    Args:
        steps: Episodes, each on a fresh batch; the budget's reward calls may end them earlier.
        learning_rate: Adam's first learning rate, which falls to 0 along half a cosine
            (Loshchilov and Hutter 2017), in units of the box's half width.
        start: Standard deviation of A in the LoRA start (`agents.rl.policies.lora_start`); 0 starts
            at the zero action, where the product of the factors has no slope.
    """

    name = "reward_ascent"
    access: ClassVar[Access] = "gradient"
    settings_type: ClassVar[type[Settings]] = RewardAscentSettings
    settings: RewardAscentSettings

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Climb until the steps or the budget are spent.

        Raises:
            Unsupported: It is no MaskWorld and no ShiftWorld.
            ValueError: The reward's signal has none, or the budget does not pay for an episode.
        """
        given, watch = self.settings, Stopwatch(budget.seconds)
        self.actions = None
        with closing(gym.make(env_spec)) as env, one_thread():
            world, length = gradient_world(env), steps_of(env)
            episodes = given.steps
            if budget.reward_calls is not None:
                if budget.reward_calls < length:
                    raise ValueError(
                        f"budget: {budget.reward_calls} reward calls do not pay for one episode of"
                        f" {length}; raise the budget"
                    )
                episodes = min(episodes, budget.reward_calls // length)
            first = lora_start(world.layout, given.start, torch.Generator().manual_seed(seed))
            actions = first.repeat(length, 1).requires_grad_()
            optimizer = torch.optim.Adam([actions], given.learning_rate)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, episodes))
            env.reset(seed=seed)
            device = world.weights[0].device
            for episode in trange(episodes, desc=self.name, unit="episode", leave=False):
                if watch.expired:
                    break
                if episode:
                    env.reset()
                optimizer.zero_grad(set_to_none=True)
                for action in actions:
                    (-world.differentiable_step(action.to(device)).reward.sum()).backward()
                optimizer.step()
                falling.step()
                with torch.no_grad():
                    actions.clamp_(-1, 1)
                self.actions = actions.detach().cpu().numpy().copy()
            if self.actions is None:  # the seconds were over before the first episode
                self.actions = actions.detach().cpu().numpy()
