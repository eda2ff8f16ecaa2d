"""SAC for continuous actions in one file, in the manner of CleanRL.

All that the algorithm does stands below, with the settings that are usual for it: two critics with
slow copies, a policy that is squashed by tanh, and a temperature that is learned towards an entropy
of minus the number of actions. A gradient step follows every step of the environment.
"""

from __future__ import annotations

import argparse
import copy

import gymnasium as gym
import numpy as np
import torch
from common import Act, parser, run
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Normal

POLICY_RATE, CRITIC_RATE = 3e-4, 1e-3
BATCH, WARM_UP, POLICY_EVERY = 256, 5_000, 2
GAMMA, TAU = 0.99, 0.005
LOG_STD = (-5.0, 2.0)


class Policy(nn.Module):
    """A Gaussian squashed by tanh into the box [−1, 1]."""

    def __init__(self, observed: int, acted: int) -> None:
        super().__init__()
        self.network = _network(observed, 2 * acted)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation before tanh, each (n, actions)."""
        mean, spread = self.network(observations).chunk(2, dim=-1)
        low, high = LOG_STD
        return mean, low + 0.5 * (high - low) * (spread.tanh() + 1)

    def sample(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Actions (n, actions) and their log probabilities (n, 1)."""
        mean, log_std = self(observations)
        gaussian = Normal(mean, log_std.exp())
        free = gaussian.rsample()
        action = free.tanh()
        log_prob = gaussian.log_prob(free) - (1 - action.square() + 1e-6).log()
        return action, log_prob.sum(1, keepdim=True)


class Critics(nn.Module):
    """Two estimates of what an action is worth, (n, 1) each."""

    def __init__(self, observed: int, acted: int) -> None:
        super().__init__()
        self.both = nn.ModuleList(_network(observed + acted, 1) for _ in range(2))

    def forward(self, observations: Tensor, actions: Tensor) -> list[Tensor]:
        """Both estimates."""
        return [one(torch.cat([observations, actions], dim=1)) for one in self.both]


def _network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs)
    )


class Memory:
    """Transitions as one table, a row for each: observation, action, reward, next observation, and
    1 where the episode ended there.
    """

    def __init__(self, rows: int, observed: int, acted: int) -> None:
        self._widths = [observed, acted, 1, observed, 1]
        self._table = torch.zeros(rows, sum(self._widths))
        self._size = 0

    def add(self, *columns: Tensor) -> None:
        """Append transitions, each column (n, width)."""
        rows = torch.cat(columns, dim=1)
        self._table[self._size : self._size + len(rows)] = rows
        self._size += len(rows)

    def sample(self) -> tuple[Tensor, ...]:
        """The columns of a random batch."""
        return self._table[torch.randint(self._size, (BATCH,))].split(self._widths, dim=1)


class Learner:
    """Policy, critics and temperature, and how they are improved (Haarnoja et al. 2018)."""

    def __init__(self, observed: int, acted: int) -> None:
        self.policy, self.critics = Policy(observed, acted), Critics(observed, acted)
        self._slow = copy.deepcopy(self.critics).requires_grad_(False)
        self._log_temperature = torch.zeros(1, requires_grad=True)
        self._target_entropy = -float(acted)
        self._policy_steps = torch.optim.Adam(self.policy.parameters(), POLICY_RATE)
        self._critic_steps = torch.optim.Adam(self.critics.parameters(), CRITIC_RATE)
        self._temperature_steps = torch.optim.Adam([self._log_temperature], CRITIC_RATE)

    @property
    def temperature(self) -> Tensor:
        """What a nat of entropy is worth in rewards."""
        return self._log_temperature.exp().detach()

    def improve_critics(self, batch: tuple[Tensor, ...]) -> None:
        """A step towards the soft value of what follows."""
        observation, action, reward, following, done = batch
        with torch.no_grad():
            next_action, log_prob = self.policy.sample(following)
            worth = torch.minimum(*self._slow(following, next_action))
            target = reward + GAMMA * (1 - done) * (worth - self.temperature * log_prob)
        estimates = self.critics(observation, action)
        _step(self._critic_steps, sum(nn.functional.mse_loss(one, target) for one in estimates))
        with torch.no_grad():
            for slow, own in zip(self._slow.parameters(), self.critics.parameters(), strict=True):
                slow.lerp_(own, TAU)

    def improve_policy(self, observation: Tensor) -> None:
        """A step towards worth and entropy, and one of the temperature."""
        action, log_prob = self.policy.sample(observation)
        worth = torch.minimum(*self.critics(observation, action))
        _step(self._policy_steps, (self.temperature * log_prob - worth).mean())
        lacking = (log_prob.detach() + self._target_entropy).mean()
        _step(self._temperature_steps, -(self._log_temperature.exp() * lacking).sum())


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def learn(args: argparse.Namespace) -> Act:
    """Train, and return the policy of the mean action."""
    torch.manual_seed(args.seed)
    envs = gym.make_vec(args.env_id, num_envs=args.num_envs)
    observed, acted = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    learner = Learner(observed, acted)
    memory = Memory(args.total_calls, observed, acted)
    steps, warm_up = args.total_calls // args.num_envs, min(WARM_UP, args.total_calls // 2)
    observation = _tensor(envs.reset(seed=args.seed)[0])
    for step in range(steps):
        if step * args.num_envs < warm_up:
            action = torch.rand(args.num_envs, acted) * 2 - 1
        else:
            with torch.no_grad():
                action = learner.policy.sample(observation)[0]
        following, reward, terminated, _, info = envs.step(action.numpy())
        reached = [
            info["final_obs"][i] if "final_obs" in info and info["_final_obs"][i] else following[i]
            for i in range(args.num_envs)
        ]
        done = _tensor(terminated)[:, None]
        memory.add(observation, action, _tensor(reward)[:, None], _tensor(np.stack(reached)), done)
        observation = _tensor(following)
        if step * args.num_envs >= warm_up:
            learner.improve_critics(memory.sample())
            if step % POLICY_EVERY == 0:
                for _ in range(POLICY_EVERY):
                    learner.improve_policy(memory.sample()[0])
    envs.close()

    @torch.no_grad()
    def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
        return learner.policy(_tensor(observation))[0].tanh().numpy()

    return act


def _tensor(array: NDArray) -> Tensor:
    return torch.as_tensor(array, dtype=torch.float32)


if __name__ == "__main__":
    run(parser(__doc__, num_envs=1).parse_args(), learn, agent="CleanRL-style SAC")
