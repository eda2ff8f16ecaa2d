"""Agents that see rewards alone: no edit, random actions, random search, and CMA-ES."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm

from agents.configured import (
    CONFIG_FILE,
    ConfiguredAgent,
    Settings,
    read_config,
    read_settings,
    setting,
    write_config,
    write_settings,
)
from agents.episodes import shape_of_actions
from agents.protocol import Access, Budget, Stopwatch, Unsupported
from agents.rl.policies import lora_start
from editgym.checks import above, at_least, whole
from editgym.envs.protocol import edit_env
from editgym.models.state_files import read_arrays
from editgym.paths import whole_file
from editgym.weights import EditJournal

_ACTIONS_FILE = "actions.safetensors"


class OpenLoopAgent(ConfiguredAgent):
    """An agent whose policy is one fixed sequence of actions, whatever it observes.

    A subclass learns the sequence, and names its `settings_type` where it has settings. What it has
    found so far stays if its learning is interrupted, and can be saved.

    Attributes:
        actions: (episode length, action size), or None before `learn` has found any.
    """

    name: ClassVar[str]
    access: ClassVar[Access] = "reward"
    saves_the_best_yet: ClassVar[bool] = True
    actions: NDArray[np.float32] | None = None

    def edit(self, env: gym.Env) -> EditJournal:
        """Play the sequence for one episode.

        Raises:
            RuntimeError: There are no actions yet.
            Unsupported: An episode has another number of edits, or edits of another size, than the
                ones that it learned on.
        """
        if self.actions is None:
            raise RuntimeError(f"{self.name} has no actions yet: call learn() or load() first")
        shape = shape_of_actions(env)
        if self.actions.shape != shape:
            raise Unsupported(
                f"{self.name} learned actions of the shape (edits, numbers) {self.actions.shape},"
                f" and an episode of {edit_env(env)} takes {shape}; learn on environments as this"
            )
        env.reset()
        for action in self.actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
        return edit_env(env).journal

    def save(self, folder: Path) -> None:
        """Write the configuration, the settings, and the actions as safetensors."""
        if self.actions is None:
            raise RuntimeError(f"{self.name} has nothing to save: call learn() first")
        write_config(folder, self.config)
        write_settings(folder, self.settings)
        with whole_file(folder / _ACTIONS_FILE) as partial:
            save_file({"actions": self.actions}, partial)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
            ValueError: A file of it is damaged.
        """
        if not (folder / _ACTIONS_FILE).is_file():
            raise FileNotFoundError(f"no agent in {folder}: there is no {_ACTIONS_FILE}")
        # The actions are the whole policy: they can be played without a configuration.
        agent = cls(**read_config(folder)) if (folder / CONFIG_FILE).is_file() else cls()
        trained_with = read_settings(folder)
        if trained_with is not None:
            agent.settings = agent.settings_type.of(trained_with)
        file, instead = folder / _ACTIONS_FILE, "train the agent again"
        agent.actions = read_arrays(file, ("actions",), "sequence of actions", instead)["actions"]
        return agent


class NoEdit(OpenLoopAgent):
    """Leaves the network as it is. It takes no arguments."""

    name = "no_edit"
    learns_nothing = True

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Nothing to learn; the zero action is no edit in every world."""
        self.actions = np.zeros(_shape_in(env_spec), np.float32)


class RandomActions(OpenLoopAgent):
    """Uniformly random actions, one after the other, whatever comes of them: what learning has to
    be better than. It takes no arguments.
    """

    name = "random_actions"
    learns_nothing = True

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Draw the actions; no reward is asked for."""
        shape = _shape_in(env_spec)
        self.actions = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class RandomSettings(Settings):
    """The settings of `RandomSearch`, which says what they are."""

    num_envs: int = setting(64, whole(1))


class RandomSearch(OpenLoopAgent):
    """The best of uniformly random edits by the reward of one batch each; with no budget, one
    random edit.

    Args:
        num_envs: Candidates scored at a time.
    """

    name = "random"
    settings_type: ClassVar[type[Settings]] = RandomSettings
    settings: RandomSettings

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Draw as many edits as the budget allows and keep the one with the highest reward."""
        self.actions = None
        with closing(_Search(env_spec, budget, seed, self.settings.num_envs)) as search:
            generator = np.random.default_rng(seed)
            first, best = search.draw(generator, 1)[0], -np.inf
            while search.affordable():
                drawn = search.draw(generator, search.candidates)
                returns = search.returns(drawn)
                if returns.max() > best:
                    self.actions, best = drawn[int(returns.argmax())], float(returns.max())
            self.actions = first if self.actions is None else self.actions


@dataclass(frozen=True, kw_only=True)
class CmaEsSettings(Settings):
    """The settings of `CmaEs`, which says what they are."""

    sigma: float = setting(0.3, above(0))
    population: int = setting(64, whole(4))
    full_covariance: int = setting(128, whole(0))
    start: float = setting(0.5, at_least(0))


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
    settings_type: ClassVar[type[Settings]] = CmaEsSettings
    settings: CmaEsSettings

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Run generations until the budget does not pay for a whole one.

        Raises:
            ValueError: It does not pay for one.
        """
        try:
            from cmaes import CMA, SepCMA
        except ImportError as error:
            raise ImportError('cmaes is missing: pip install "editgym[rl]"') from error
        given, self.actions = self.settings, None
        with closing(_Search(env_spec, budget, seed, given.population)) as search:
            if search.candidates < given.population:
                raise ValueError(
                    f"budget: {budget.reward_calls} reward calls do not pay for one generation of"
                    f" {given.population * search.steps} (population × episode length); raise the"
                    " budget or lower the population"
                )
            kind = CMA if np.prod(search.shape) <= given.full_covariance else SepCMA
            one = lora_start(search.layout, given.start, torch.Generator().manual_seed(seed))
            # No bounds for the optimiser: it would draw whole vectors anew until every number is
            # inside.
            optimizer = kind(
                mean=np.tile(one.numpy(), search.steps).astype(float),
                sigma=given.sigma,
                seed=seed,
                population_size=given.population,
            )
            while search.affordable():
                drawn = np.stack([optimizer.ask() for _ in range(given.population)])
                returns = search.returns(drawn.clip(-1, 1).reshape(-1, *search.shape))
                optimizer.tell(list(zip(drawn, -returns, strict=True)))
                self.actions = _as_actions(optimizer.mean, search.shape)
            if self.actions is None:  # the seconds were over before the first generation
                self.actions = _as_actions(optimizer.mean, search.shape)


def _as_actions(mean: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.clip(mean, -1, 1).astype(np.float32).reshape(shape)


class _Search:
    """Scores whole action sequences, many at a time, within a budget, with a progress bar.

    Attributes:
        candidates: How many sequences are scored at a time: `num_envs`, or fewer if the budget pays
            for fewer.
        shape: Shape of one sequence, (steps, action size).
        steps: Edits per episode.
        layout: How an action holds the factors.
    """

    def __init__(self, env_spec: EnvSpec, budget: Budget, seed: int, num_envs: int) -> None:
        if env_spec.vector_entry_point is None:
            raise Unsupported(
                f"{env_spec.id} cannot score many candidates of a whole episode at a time"
            )
        with closing(gym.make(env_spec)) as env:
            world, self.shape = edit_env(env), shape_of_actions(env)
        self.steps, self.layout = self.shape[0], world.layout
        if any(count > 1 for count in world.choices.values()):
            counts = [f"{count} {what}s" for what, count in sorted(world.choices.items())]
            raise Unsupported(
                "a search compares candidates for one goal on one network, and this environment"
                f" has {' and '.join(counts)}, drawn for each candidate"
            )
        if budget.reward_calls is None and budget.seconds is None:
            raise ValueError("budget: a search needs reward_calls or seconds")
        self._left = float("inf") if budget.reward_calls is None else budget.reward_calls
        self.candidates = max(1, int(min(num_envs, self._left // self.steps)))
        # One batch for all: what differs between two returns is then the edit alone.
        self._env = gym.make_vec(env_spec, num_envs=self.candidates, shared_batch=True)
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


def _shape_in(env_spec: EnvSpec) -> tuple[int, ...]:
    with closing(gym.make(env_spec)) as env:
        return shape_of_actions(env)
