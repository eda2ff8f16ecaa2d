"""What agents share that are described by settings: fields with ranges, and a file of JSON.

An agent keeps what it was given (`config`), and that alone is saved. What it works with is
resolved where the environment is known: the defaults of its `Settings`, over them the tuned values
of the environment's task, over them what was given.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from gymnasium.envs.registration import EnvSpec

from editgym.checks import Check

CONFIG_FILE = "agent.json"


def setting(default: Any, check: Check | None = None) -> Any:
    """A field of `Settings`: its default, and what its values have to be."""
    metadata = {} if check is None else {"check": check}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The base of all settings: a field for each, made by `setting`, with default and range.

    Raises:
        ValueError: A value is out of its range; the message names field, value and range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check = field.metadata.get("check")
            if check is not None:
                check(field.name, getattr(self, field.name))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Settings with these values, and defaults for the rest.

        Raises:
            ValueError: A name is not known, or a value is out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"unknown setting {name!r}{hint}; there are: {', '.join(known) or 'none'}"
                )
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Every field's value, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class ConfiguredAgent:
    """An agent that is wholly described by its settings.

    A subclass names its `settings_type`, whose fields are the constructor's keyword arguments, and
    `tuned` where there are tuned values.

    Attributes:
        config: The settings that were given, JSON values; it never changes.
        settings: What the agent works with: defaults and what was given, and from `learn` or `edit`
            on also the tuned values of the environment's task.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    config: dict[str, Any]
    settings: Settings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the settings as the constructor's signature, in `help` and to `make_agent`."""
        super().__init_subclass__(**kwargs)
        if "settings_type" in vars(cls):
            parameters = inspect.signature(cls.settings_type).parameters.values()
            cls.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]

    def __init__(self, **config: Any) -> None:
        self.config = dict(config)
        self.settings = self.settings_type.of(self.config)

    def tuned(self, spec: EnvSpec) -> Mapping[str, Any]:
        """The values that were tuned for an environment's task; none unless a subclass has some."""
        return {}

    def resolved(self, spec: EnvSpec) -> Settings:
        """The settings in an environment made from `spec`, every one of them.

        Raises:
            ValueError: A value is out of its range.
        """
        return self.settings_type.of({**self.tuned(spec), **self.config})

    def save(self, folder: Path) -> None:
        """Write the configuration as JSON."""
        write_config(folder, self.config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The agent that `save` wrote.

        Raises:
            FileNotFoundError: There is none in `folder`.
        """
        return cls(**read_config(folder))


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write an agent's configuration into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """An agent's configuration from `folder`.

    Raises:
        FileNotFoundError: There is no agent in `folder`.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no agent in {folder}: there is no {CONFIG_FILE}")
    return dict(json.loads(path.read_text()))
