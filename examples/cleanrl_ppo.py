"""PPO for continuous actions in one file, in the manner of CleanRL.

All that the algorithm does stands below, with the settings that Schulman et al. (2017) have for
continuous control, and what has become usual beside them: observations and rewards normalised and
clipped, and orthogonal initial weights. `--anneal` lets the learning rate fall to 0. The rollout of
2,048 steps is divided among the environments.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from common import Act, parser, run
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal

LEARNING_RATE = 3e-4
ROLLOUT, MINIBATCH, EPOCHS = 2_048, 64, 10
GAMMA, LAMBDA = 0.99, 0.95
CLIP, VALUE_WEIGHT, MAX_NORM = 0.2, 0.5, 0.5
BOUND = 10.0  # of normalised observations and rewards


class Moments:
    """Mean and variance of all numbers seen so far, of every column (Chan et al. 1979)."""

    def __init__(self, size: int) -> None:
        self.mean, self.variance, self.count = np.zeros(size), np.ones(size), 1e-4

    def add(self, rows: NDArray[np.float64]) -> None:
        """Take in rows (n, size)."""
        gap, total = rows.mean(0) - self.mean, self.count + len(rows)
        squares = self.variance * self.count + rows.var(0) * len(rows)
        self.variance = (squares + gap**2 * self.count * len(rows) / total) / total
        self.mean = self.mean + gap * len(rows) / total
        self.count = total

    def spread(self) -> NDArray[np.float64]:
        """The standard deviation of every column, above 0."""
        return np.sqrt(self.variance + 1e-8)


class Normalised:
    """Environments whose observations are centred and scaled, and whose rewards are divided by the
    standard deviation of the discounted returns so far; both are clipped.
    """

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        self.envs = envs
        self._seen = Moments(envs.single_observation_space.shape[0])
        self._returns = Moments(1)
        self._running = np.zeros((envs.num_envs, 1))

    def reset(self, seed: int) -> Tensor:
        """The first observations, (environments, size)."""
        return self._observed(self.envs.reset(seed=seed)[0])

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next observations, the rewards, and 1 where an episode is over."""
        observations, rewards, terminated, truncated, _ = self.envs.step(actions.numpy())
        self._running = self._running * GAMMA + rewards[:, None]
        self._returns.add(self._running)
        rewards = (rewards / self._returns.spread()).clip(-BOUND, BOUND)
        over = np.logical_or(terminated, truncated)
        self._running[over] = 0
        return self._observed(observations), _tensor(rewards), _tensor(over)

    def scaled(self, observations: NDArray[np.float32]) -> Tensor:
        """Observations as the agent has them."""
        centred = (observations - self._seen.mean) / self._seen.spread()
        return _tensor(centred.clip(-BOUND, BOUND))

    def _observed(self, observations: NDArray[np.float32]) -> Tensor:
        self._seen.add(observations.astype(np.float64))
        return self.scaled(observations)


class Agent(nn.Module):
    """A Gaussian policy with a spread that no observation changes, and a value function."""

    def __init__(self, observed: int, acted: int) -> None:
        super().__init__()
        self.mean = _network(observed, acted, 0.01)
        self.log_std = nn.Parameter(torch.zeros(acted))
        self.value = _network(observed, 1, 1.0)

    def policy(self, observations: Tensor) -> Normal:
        """The distribution of actions."""
        return Normal(self.mean(observations), self.log_std.exp())


def _network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    layers = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, own in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, own)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the policy of the mean action."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs)
    world = Normalised(envs)
    agent = Agent(envs.single_observation_space.shape[0], envs.single_action_space.shape[0])
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    steps = min(ROLLOUT, args.total_calls) // args.num_envs
    updates = args.total_calls // (steps * args.num_envs)
    observation = world.reset(args.seed)
    for update in range(updates):
        if args.anneal:
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - update / updates)
        rollout: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for _ in range(steps):
                policy = agent.policy(observation)
                action = policy.sample()
                following, reward, done = world.step(action)
                for name, value in {
                    "observation": observation,
                    "action": action,
                    "log_prob": policy.log_prob(action).sum(1),
                    "value": agent.value(observation).squeeze(1),
                    "reward": reward,
                    "done": done,
                }.items():
                    rollout.setdefault(name, []).append(value)
                observation = following
            batch = {name: torch.stack(values) for name, values in rollout.items()}
            batch["advantage"] = advantages(batch, agent.value(observation).squeeze(1))
        batch["target"] = batch["advantage"] + batch["value"]
        improve(agent, optimizer, {name: value.flatten(0, 1) for name, value in batch.items()})
    envs.close()

    @torch.no_grad()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return agent.mean(world.scaled(observation)).numpy()

    return act


def advantages(batch: dict[str, Tensor], last_value: Tensor) -> Tensor:
    """Generalised advantage estimates (steps, environments), Schulman et al. 2016, eq. 16."""
    result, running, following = [], torch.zeros_like(last_value), last_value
    for reward, value, done in reversed(
        list(zip(batch["reward"], batch["value"], batch["done"], strict=True))
    ):
        error = reward + GAMMA * following * (1 - done) - value
        running = error + GAMMA * LAMBDA * (1 - done) * running
        following = value
        result.append(running)
    return torch.stack(result[::-1])


def improve(agent: Agent, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """Epochs of clipped updates (Schulman et al. 2017, eq. 9) over a rollout."""
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(batch["reward"])).split(MINIBATCH):
            own = {name: value[rows] for name, value in batch.items()}
            log_prob = agent.policy(own["observation"]).log_prob(own["action"]).sum(1)
            ratio = (log_prob - own["log_prob"]).exp()
            advantage = own["advantage"] - own["advantage"].mean()
            advantage = advantage / (own["advantage"].std() + 1e-8)
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            gain = torch.minimum(ratio * advantage, clipped * advantage).mean()
            error = agent.value(own["observation"]).squeeze(1) - own["target"]
            optimizer.zero_grad()
            (0.5 * VALUE_WEIGHT * error.square().mean() - gain).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), MAX_NORM)
            optimizer.step()


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


def main() -> None:
    """The command line."""
    command_line = parser(__doc__)
    command_line.add_argument("--anneal", action="store_true", help="the learning rate falls to 0")
    args = command_line.parse_args()
    agent = f"CleanRL-style PPO{', annealed' if args.anneal else ''}"
    run(args, learn, agent=agent, settings={"anneal": True} if args.anneal else {})


if __name__ == "__main__":
    main()
