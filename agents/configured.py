"""What agents without learned parameters share: a configuration that is saved as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

CONFIG_FILE = "agent.json"


class ConfiguredAgent:
    """An agent that is wholly described by its constructor's arguments.

    Attributes:
        config: Those arguments, JSON values; subclasses set it.
    """

    name: ClassVar[str]
    config: dict[str, Any]

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
