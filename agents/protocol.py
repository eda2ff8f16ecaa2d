"""What an agent is: it learns in an environment, then edits one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from editgym.checks import at_least, optional
from editgym.envs.access import Access
from editgym.envs.protocol import Unsupported
from editgym.weights import EditJournal

_LIMIT = optional(at_least(0))


@dataclass(frozen=True)
class Budget:
    """How much an agent may learn; None is no limit.

    Attributes:
        reward_calls: Candidate edits whose reward is computed.
        seconds: Wall-clock time.
    """

    reward_calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("reward_calls", "seconds"):
            _LIMIT(name, getattr(self, name))


@dataclass
class Stopwatch:
    """Says when a budget's seconds are over."""

    seconds: float | None
    _start: float = field(default_factory=time.monotonic)

    @property
    def expired(self) -> bool:
        """Whether the time is over."""
        return self.left == 0

    @property
    def left(self) -> float:
        """Share of the time that is left, from 1 to 0; 1 where there is no end."""
        if self.seconds is None:
            return 1.0
        return (
            max(0.0, 1 - (time.monotonic() - self._start) / self.seconds)
            if self.seconds > 0
            else 0.0
        )


@runtime_checkable
class Agent(Protocol):
    """One class per agent; its constructor takes JSON values, which are its configuration.

    Where there is nothing to learn, a class may also say `learns_nothing = True`: `agents.edit`
    then puts it into its folder by itself. Where `save` writes what an interrupted `learn` has
    found so far, and raises `RuntimeError` if there is nothing yet, it may say
    `saves_the_best_yet = True`: `agents.train` then saves that on Ctrl-C.

    Attributes:
        name: Its name in the catalogue and in tables.
        access: What it uses: `reward` (observations and rewards alone), `gradient` (of the reward,
            white box), `data` (a classical algorithm on the model and its training data), `oracle`
            (retraining and the like).
    """

    name: str
    access: Access

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Learn in environments made from `env_spec`.

        Args:
            env_spec: With its kwargs, as `gym.make` and `gym.make_vec` take it.
            budget: Not to be exceeded.
            seed: Equal seeds give equal agents on one machine.
            out: Where logs and checkpoints may be written.

        Raises:
            Unsupported: The task lacks what the agent needs.
        """
        ...

    def edit(self, env: gym.Env) -> EditJournal:
        """Reset `env`, edit its network for one episode, and return the journal; does not
        evaluate.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what was learned into `folder`."""
        ...

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        ...


__all__ = ["Access", "Agent", "Budget", "Stopwatch", "Unsupported"]
