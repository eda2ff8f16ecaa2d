"""One run of one agent, and the name by which its result is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from editgym.checks import as_json, require
from editgym.imports import is_written_as_path

Row = dict[str, Any]


def canonical_json(value: Any) -> str:
    """JSON that is the same text for the same value, also once it was read back: sorted keys, no
    blanks, strict numbers.

    Raises:
        ValueError: The value holds something that JSON does not have, see `as_json`.
    """
    return json.dumps(as_json(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a JSON value, however deep; keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from texts_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts_in(part)


@dataclass(frozen=True)
class Cell:
    """One run of one agent: the unit that is run, skipped, failed and validated.

    Arguments and settings are kept as they are read back from its row, lists for tuples and texts
    for the keys of objects: what is run is what `validate` runs again.

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
        edited_with: Where an edit is scored again with other arguments of the environment: what
            these were when it was made, None where they were not given.

    Raises:
        ValueError: An argument or a setting is no JSON value, or a name is no text on one line;
            the message names it.
    """

    suite: str
    env_id: str
    env_kwargs: Mapping[str, Any]
    agent: str
    agent_config: Mapping[str, Any]
    seed: int
    reward_calls: int | None = None
    settings: Mapping[str, Any] | None = None
    edited_with: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("suite", "env_id", "agent", "task"):
            text = getattr(self, name)
            is_none = text is None and name == "task"
            is_line = isinstance(text, str) and text.isprintable()
            require(is_none or is_line, name, text, "a text on one line")
        owners = {
            **dict.fromkeys(("env_kwargs", "edited_with"), self.env_id),
            **dict.fromkeys(("agent_config", "settings"), self.agent),
        }
        for name, owner in owners.items():
            kept = as_json(getattr(self, name), f"{name} of {owner}")
            object.__setattr__(self, name, kept)

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
        if self.edited_with:  # another edit than a run of these arguments makes
            decides["edited_with"] = self.edited_with
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
    def parts(self) -> tuple[str, ...]:
        """The parts that are import paths, `package.module:name`: environment, suite, task, agent.

        The environment comes first: importing its module registers it.
        """
        names = (self.env_id, self.suite, self.task, self.agent)
        return tuple(dict.fromkeys(name for name in names if name and ":" in name))

    @property
    def mentioned(self) -> tuple[str, ...]:
        """The texts that are import paths to the letter, anywhere in the environment's arguments
        and the agent's settings: models, rewards, oracles, loaders of data.
        """
        texts = texts_in([self.env_kwargs, self.agent_config, self.resolved])
        return tuple(dict.fromkeys(text for text in texts if is_written_as_path(text)))

    @property
    def strangers(self) -> tuple[str, ...]:
        """Every import path that the cell names: its parts, and what they are given."""
        return tuple(dict.fromkeys((*self.parts, *self.mentioned)))

    def check_modules(self) -> None:
        """Refuse a part that stands in a script or notebook, which no other process imports.

        Raises:
            ValueError: There is one; the message names it.
        """
        for path in self.strangers:
            if path.partition(":")[0] == "__main__":
                name = path.partition(":")[2]
                raise ValueError(
                    f"{path}: an agent, and every other part, must stand in a module file, since"
                    f" processes do not import a script or notebook: put {name} into my_agents.py,"
                    f" and write my_agents:{name}"
                )

    @classmethod
    def of(cls, row: Row) -> Cell:
        """The cell that `row` belongs to."""
        named = ("suite", "env_id", "env_kwargs", "agent", "agent_config", "seed", "settings")
        return cls(
            **{name: row[name] for name in named}, **row["budget"], edited_with=edited_with(row)
        )

    def __str__(self) -> str:
        return f"{self.env_id} · {self.task} · {self.agent} · seed {self.seed}"


def edited_with(row: Row) -> dict[str, Any]:
    """The arguments that the environment of a row's edit had when it was made, of those that it is
    measured with other values of; None where they were not given. None of them where the row was
    not scored again.

    Raises:
        ValueError: What `rescored_from` says is not of its form.
    """
    found: dict[str, Any] = {}
    for made_from in _made_from(row):
        before = made_from.get("before", {})
        found |= {key: before.get(key) for key in made_from["set"]}
    now = row["env_kwargs"]
    return {key: value for key, value in found.items() if key not in now or now[key] != value}


def _made_from(row: Row) -> Iterator[Mapping[str, Any]]:
    """What `rescored_from` says, of the latest time that the edit was scored again and of those
    before it.
    """
    holder: Mapping[str, Any] = row
    while "rescored_from" in holder:
        holder = holder["rescored_from"]
        try:
            before, given = holder.get("before", {}), holder["set"]
            known = given and isinstance(given, dict) and before.keys() <= given.keys()
        except (AttributeError, KeyError, TypeError):
            known = False
        if not known or not isinstance(holder.get("cell"), str):
            raise ValueError(
                "rescored_from is not of its form: an object with the cell that the edit is of, the"
                " arguments that were set, and what these were before"
            )
        yield holder
