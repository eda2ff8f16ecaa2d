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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from gymnasium.envs.registration import EnvSpec

from agents.tune.search import Search, Searches
from editgym.checks import Check, shown
from editgym.paths import read_object, whole_file

CONFIG_FILE = "agent.json"
SETTINGS_FILE = "settings.json"


def setting(
    default: Any,
    check: Check | None = None,
    search: Search | Searches | None = None,
    names_folder: bool = False,
) -> Any:
    """A field of `Settings`.

    Args:
        default: Its default.
        check: What its values have to be.
        search: Where `agents.tune` looks for a better one; of a mapping, by its keys. None keeps
            what an agent has by itself.
        names_folder: Whether its value is the name of a file or folder that the agent reads: rows
            keep a hash of what is in it.
    """
    metadata: dict[str, Any] = {} if check is None else {"check": check}
    if names_folder:
        metadata["names_folder"] = True
    if search is not None:
        metadata["search"] = search
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
                    f"unknown setting {name!r}{hint}, given as {shown(given[name])}; there are:"
                    f" {', '.join(known) or 'none'}"
                )
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Every field's value, by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def named_folders(cls) -> list[str]:
        """The settings that name a file or folder which the agent reads."""
        return [one.name for one in dataclasses.fields(cls) if one.metadata.get("names_folder")]

    @classmethod
    def has_seed(cls) -> bool:
        """Whether one of the settings is called `seed`."""
        return any(one.name == "seed" for one in dataclasses.fields(cls))

    def searches(self) -> dict[str, Search]:
        """Where `agents.tune` looks for better values, by name; by `setting.key` inside a
        mapping.
        """
        found: dict[str, Search] = {}
        for field in dataclasses.fields(self):
            search = field.metadata.get("search", {})
            if isinstance(search, Mapping):
                found |= {f"{field.name}.{key}": own for key, own in search.items()}
            else:
                found[field.name] = search
        return found


class ConfiguredAgent:
    """An agent that is wholly described by its settings.

    A subclass names its `settings_type`, whose fields are the constructor's keyword arguments, and
    `tuned` where there are tuned values.

    Attributes:
        env_searches: Arguments of the environment that `agents.tune` tunes beside the settings.
        config: The settings that were given, JSON values. Nothing changes it but `keep_seed`.
        seed_given: Whether `make_agent` was given the agent's seed, which then goes before that of
            `learn`.
        settings: What the agent works with: defaults and what was given, and from `learn` or `edit`
            on also the tuned values of the environment's task.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    env_searches: ClassVar[Searches] = {}
    seed_given: bool = False
    config: dict[str, Any]
    settings: Settings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the settings as the constructor's signature, in `help` and to `make_agent`."""
        super().__init_subclass__(**kwargs)
        if "settings_type" in vars(cls):
            parameters = inspect.signature(cls.settings_type).parameters
            # What is the agent's own stands before what it has from its settings' bases.
            names = [n for c in cls.settings_type.__mro__ for n in inspect.get_annotations(c)]
            ordered = [parameters[name] for name in dict.fromkeys(names) if name in parameters]
            cls.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]

    def __init__(self, **config: Any) -> None:
        self.config = dict(config)
        self.settings = self.settings_type.of(self.config)

    def tuned(self, spec: EnvSpec) -> Mapping[str, Any]:
        """The values that were tuned for an environment's task; none unless a subclass has some."""
        return {}

    def resolved(self, spec: EnvSpec | None) -> Settings:
        """The settings in an environment made from `spec`, every one of them.

        Args:
            spec: With its kwargs. None, for an environment that `gym.make` did not make, has no
                tuned values.

        Raises:
            ValueError: A value is out of its range.
        """
        tuned = {} if spec is None else self.tuned(spec)
        return self.settings_type.of({**tuned, **self.config})

    @property
    def learns_nothing(self) -> bool:
        """Whether `learn` takes no time and no reward: such an agent can edit at once."""
        return self.is_its_config

    @property
    def is_its_config(self) -> bool:
        """Whether the configuration is all that the agent saves: it learns nothing."""
        return next(cls for cls in type(self).__mro__ if "load" in vars(cls)) is ConfiguredAgent

    def keep_seed(self, seed: int) -> None:
        """Count the seed of `learn` among what was given, where the agent has a setting `seed` that
        was not given itself.
        """
        if self.settings_type.has_seed() and not self.seed_given:
            self.config = {**self.config, "seed": seed}

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


def layered(
    below: Mapping[str, Any], over: Mapping[str, Any], inner: Collection[str]
) -> dict[str, Any]:
    """Settings over others, by name.

    Args:
        below: What counts where `over` says nothing.
        over: What goes before it.
        inner: Names of mappings that are laid over each other key by key, where both have one.
    """
    together = {**below, **over}
    for name in inner:
        first, second = below.get(name), over.get(name)
        if isinstance(first, Mapping) and isinstance(second, Mapping):
            together[name] = {**first, **second}
    return together


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write an agent's configuration into `folder`, completely or not at all."""
    _write(folder / CONFIG_FILE, config)


def read_config(folder: Path) -> dict[str, Any]:
    """An agent's configuration from `folder`.

    Raises:
        FileNotFoundError: There is no agent in `folder`.
        ValueError: The file is damaged.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no agent in {folder}: there is no {CONFIG_FILE}")
    return read_object(path, {}, "train the agent again")


def write_settings(folder: Path, settings: Settings) -> None:
    """Write the settings that an agent was trained with into `folder`, beside its configuration,
    completely or not at all.
    """
    _write(folder / SETTINGS_FILE, settings.as_dict())


def _write(file: Path, told: Mapping[str, Any]) -> None:
    with whole_file(file) as partial:
        partial.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that the agent in `folder` was trained with; None where they were not saved.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / SETTINGS_FILE
    return read_object(path, {}, "train the agent again") if path.is_file() else None
