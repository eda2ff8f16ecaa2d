"""One run of one agent, and the name by which its result is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


def canonical_json(value: Any) -> str:
    """JSON that is the same text for the same value: sorted keys, no blanks, strict numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Cell:
    """One run of one agent: the unit that is run, skipped, failed and validated.

    Attributes:
        suite: Name of the suite, or its import path `package.module:SUITE`.
        env_id: Gymnasium id.
        env_kwargs: Keyword arguments of the environment, JSON-able; `task` and `model_seed` among
            them.
        agent: Catalogue name, or `package.module:Class`.
        agent_config: What was typed: the keyword arguments that the agent is made with.
        seed: The agent's seed.
        reward_calls: Budget of reward evaluations for `learn`; None where the task has none: nobody
            searches there.
        settings: What the agent works with in this environment: its defaults, the tuned values of
            the task and what was typed, every one of them. None takes what was typed for it.
    """

    suite: str
    env_id: str
    env_kwargs: Mapping[str, Any]
    agent: str
    agent_config: Mapping[str, Any]
    seed: int
    reward_calls: int | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """SHA-256 (hexadecimal) of what decides the result: the settings in full, not what was
        typed, so that a default that changes makes another cell.
        """
        decides = {
            "suite": self.suite,
            "env_id": self.env_id,
            "env_kwargs": self.env_kwargs,
            "agent": self.agent,
            "settings": self.resolved,
            "reward_calls": self.reward_calls,
            "seed": self.seed,
        }
        return hashlib.sha256(canonical_json(decides).encode()).hexdigest()

    @property
    def resolved(self) -> Mapping[str, Any]:
        """The settings in full; what was typed where they are not known."""
        return self.agent_config if self.settings is None else self.settings

    @property
    def task(self) -> str | None:
        """Name of the task, where the environment takes one."""
        return self.env_kwargs.get("task")

    @property
    def strangers(self) -> tuple[str, ...]:
        """The parts that are import paths, `package.module:name`: environment, suite, task, agent.

        The environment comes first: importing its module registers it.
        """
        names = (self.env_id, self.suite, self.task, self.agent)
        return tuple(dict.fromkeys(name for name in names if name and ":" in name))

    @classmethod
    def of(cls, row: Row) -> Cell:
        """The cell that `row` belongs to."""
        named = ("suite", "env_id", "env_kwargs", "agent", "agent_config", "seed", "settings")
        return cls(**{name: row[name] for name in named}, **row["budget"])

    def __str__(self) -> str:
        return f"{self.env_id} · {self.task} · {self.agent} · seed {self.seed}"
