"""Agents that see rewards alone: no edit, random actions, random search, and CMA-ES."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from agents.configured import CONFIG_FILE, read_config, write_config
from agents.protocol import Access, Budget, Stopwatch, Unsupported
from agents.rl.policies import lora_start
from editgym.tasks import Task
from editgym.weights import ActionLayout, EditJournal

_ACTIONS_FILE = "actions.safetensors"


class OpenLoopAgent:
    """An agent whose policy is one fixed sequence of actions, whatever it observes.

    Attributes:
        config: The constructor's arguments, JSON values; subclasses that have any set it.
        actions: (episode length, action size), or None before `learn`.
    """

    name: ClassVar[str]
    access: ClassVar[Access] = "reward"
    config: Mapping[str, Any] = MappingProxyType({})
    actions: NDArray[np.float32] | None = None

    def edit(self, env: gym.Env) -> EditJournal:
        """Play the sequence for one episode."""
        if self.actions is None:
            raise RuntimeError(f"{self.name} has no actions yet: call learn() or load() first")
        env.reset()
        for action in self.actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        return env.unwrapped.journal  # type: ignore[attr-defined]

    def save(self, folder: Path) -> None:
        """Write the configuration, and the actions as safetensors."""
        if self.actions is None:
            raise RuntimeError(f"{self.name} has nothing to save: call learn() first")
        write_config(folder, dict(self.config))
        save_file({"actions": self.actions}, folder / _ACTIONS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        if not (folder / _ACTIONS_FILE).is_file():
            raise FileNotFoundError(f"no agent in {folder}: there is no {_ACTIONS_FILE}")
        # Folders of older versions hold no configuration.
        agent = cls(**read_config(folder)) if (folder / CONFIG_FILE).is_file() else cls()
        agent.actions = load_file(folder / _ACTIONS_FILE)["actions"]
        return agent


class NoEdit(OpenLoopAgent):
    """Leaves the network as it is."""

    name = "no_edit"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing to learn; the zero action is no edit in every world."""
        env = gym.make(env_spec)
        self.actions = np.zeros((episode_length(env), *env.action_space.shape), np.float32)  # type: ignore[misc]


class RandomActions(OpenLoopAgent):
    """Uniformly random actions, one after the other, whatever comes of them: what learning has to
    be better than.
    """

    name = "random_actions"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Draw the actions; no reward is asked for."""
        env = gym.make(env_spec)
        shape = (episode_length(env), *env.action_space.shape)  # type: ignore[misc]
        self.actions = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


class RandomSearch(OpenLoopAgent):
    """The best of uniformly random edits by the reward of one batch each; with no budget, one
    random edit.

    Args:
        num_envs: Candidates scored at a time.
    """

    name = "random"

    def __init__(self, num_envs: int = 64) -> None:
        self.config = {"num_envs": num_envs}
        self.num_envs = num_envs

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Draw as many edits as the budget allows and keep the one with the highest reward."""
        search = _Search(env_spec, budget, seed, self.num_envs)
        generator = np.random.default_rng(seed)
        self.actions, best = search.draw(generator, 1)[0], -np.inf
        while search.affordable():
            drawn = search.draw(generator, search.candidates)
            returns = search.returns(drawn)
            if returns.max() > best:
                self.actions, best = drawn[int(returns.argmax())], float(returns.max())
        search.close()


class CmaEs(OpenLoopAgent):
    """CMA-ES (Hansen 2016) by the `cmaes` package, from the same start as PPO; the result is the
    final mean.

    Above `full_covariance` numbers the covariance is kept diagonal (sep-CMA-ES; Ros and Hansen
    2008): a full one needs more samples than there are here, and a cubic decomposition per
    generation.

    Args:
        sigma: Initial standard deviation of every action number.
        population: Candidates per generation.
        full_covariance: The most numbers for which the covariance is full.
        start: Standard deviation of A in the LoRA start (`agents.rl.policies.lora_start`); 0 starts
            at the zero action, where the product of the factors has no slope.
    """

    name = "cmaes"

    def __init__(
        self,
        sigma: float = 0.3,
        population: int = 64,
        full_covariance: int = 128,
        start: float = 0.5,
    ) -> None:
        if not sigma > 0 or population < 4:
            raise ValueError(
                f"sigma must be greater than 0 and population at least 4, got {sigma} and"
                f" {population}"
            )
        self.config = {
            "sigma": sigma,
            "population": population,
            "full_covariance": full_covariance,
            "start": start,
        }
        self.sigma, self.population, self.full_covariance, self.start = (
            sigma,
            population,
            full_covariance,
            start,
        )

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Run generations until the budget does not pay for a whole one.

        Raises:
            ValueError: It does not pay for one.
        """
        try:
            from cmaes import CMA, SepCMA
        except ImportError as error:
            raise ImportError('cmaes is missing: pip install "editgym[rl]"') from error
        search = _Search(env_spec, budget, seed, self.population)
        if search.candidates < self.population:
            search.close()
            raise ValueError(
                f"budget: {budget.reward_calls} reward calls do not pay for one generation of"
                f" {self.population * search.steps} (population × episode length); raise the budget"
                " or lower the population"
            )
        size = int(np.prod(search.shape))
        kind = CMA if size <= self.full_covariance else SepCMA
        # No bounds for the optimiser: it would draw whole vectors anew until every number is
        # inside.
        one = lora_start(search.layout, self.start, torch.Generator().manual_seed(seed)).numpy()
        optimizer = kind(
            mean=np.tile(one, search.steps).astype(float),
            sigma=self.sigma,
            seed=seed,
            population_size=self.population,
        )
        while search.affordable():
            drawn = np.stack([optimizer.ask() for _ in range(self.population)])
            returns = search.returns(drawn.clip(-1, 1).reshape(-1, *search.shape))
            optimizer.tell(list(zip(drawn, -returns, strict=True)))
        self.actions = np.clip(optimizer.mean, -1, 1).astype(np.float32).reshape(search.shape)
        search.close()


class _Search:
    """Scores whole action sequences, many at a time, within a budget, with a progress bar.

    Attributes:
        candidates: How many sequences are scored at a time: `num_envs`, or fewer if the budget pays
            for fewer.
        shape: Of one sequence, (episode length, action size).
        steps: Edits per episode.
        layout: How an action holds the factors.
    """

    def __init__(self, env_spec: EnvSpec, budget: Budget, seed: int, num_envs: int) -> None:
        if env_spec.vector_entry_point is None:
            raise Unsupported(
                f"{env_spec.id} cannot score many candidates of a whole episode at a time"
            )
        env = gym.make(env_spec)
        task: Task = env.unwrapped.task  # type: ignore[attr-defined]
        if len(task.goals) > 1 or len(task.networks) > 1:
            raise Unsupported(
                "a search compares candidates for one goal on one network, and this environment"
                f" has {len(task.goals)} goals and {len(task.networks)} networks, drawn for each"
                " candidate"
            )
        self.steps = episode_length(env)
        self.shape = (self.steps, *env.action_space.shape)  # type: ignore[misc]
        if budget.reward_calls is None and budget.seconds is None:
            raise ValueError("budget: a search needs reward_calls or seconds")
        self._left = float("inf") if budget.reward_calls is None else budget.reward_calls
        self.candidates = max(1, int(min(num_envs, self._left // self.steps)))
        # One batch for all: what differs between two returns is then the edit alone.
        self._env = gym.make_vec(env_spec, num_envs=self.candidates, shared_batch=True)
        self.layout: ActionLayout = env.unwrapped.layout  # type: ignore[attr-defined]
        self._env.reset(seed=seed)
        self._watch = Stopwatch(budget.seconds)
        self._bar = tqdm(
            total=budget.reward_calls, desc="search", unit="call", leave=False, mininterval=0.5
        )

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Uniform action sequences, (count, episode length, action size)."""
        return generator.uniform(-1, 1, (count, *self.shape)).astype(np.float32)

    def affordable(self) -> bool:
        """Whether the budget pays for `candidates` more sequences."""
        return not self._watch.expired and self._left >= self.candidates * self.steps

    def returns(self, sequences: NDArray[np.floating]) -> NDArray[np.float64]:
        """Undiscounted returns, (candidates,), of sequences (candidates, episode length, action
        size).
        """
        total = sum(
            self._env.step(sequences[:, step].astype(np.float32))[1] for step in range(self.steps)
        )
        self._left -= self.candidates * self.steps
        self._bar.update(self.candidates * self.steps)
        return np.asarray(total)

    def close(self) -> None:
        self._bar.close()
        self._env.close()


def episode_length(env: gym.Env) -> int:
    """Number of edits in an episode of a world."""
    return int(env.unwrapped.episode_length)  # type: ignore[attr-defined]
