"""What interrupted work leaves behind: whose checkpoint it is, and which agent its folder holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents import configured
from editgym.paths import read_object, whole_file

AGENT_FOLDER = "agent"
CONFIG_FILE = "config.json"
TRAINING = "training.pt"  # of an interrupted training, in the agent's folder
CHECKPOINT = "checkpoint.pt"  # of an interrupted edit of a stream


class _Absent:
    def __repr__(self) -> str:
        return "absent"


def canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    """`identity` as JSON gives it back; what JSON does not have (paths, devices) as text."""
    return dict(json.loads(json.dumps(identity, default=str)))


def first_difference(there: Any, here: Any, name: str = "") -> str | None:
    """Where two JSON values differ first, and how; None where they do not.

    Args:
        there: What the checkpoint has.
        here: What would go on from it.
        name: What the values are called, for the answer.
    """
    if isinstance(there, list) and isinstance(here, list):
        there, here = dict(enumerate(there)), dict(enumerate(here))
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return None if there == here else f"{name} is {there!r} there and {here!r} here"
    for key in {**here, **there}:
        values = there.get(key, _Absent()), here.get(key, _Absent())
        if found := first_difference(*values, f"{name}.{key}" if name else str(key)):
            return found
    return None


class AgentFolder:
    """The folder of a trained agent: `agent/`, and `config.json`, which says how it was trained.

    The two belong together however they are interrupted. An agent that another may replace is set
    aside with its own `config.json`, in `agent.replaced/`, until one of them is settled on.

    Args:
        out: The folder.

    Attributes:
        agent: What was learned.
        config: How.
    """

    def __init__(self, out: Path) -> None:
        self.agent, self.config = out / AGENT_FOLDER, out / CONFIG_FILE
        self._aside = out / f"{AGENT_FOLDER}.replaced"

    @property
    def is_resumable(self) -> bool:
        """Whether a training was interrupted there that its own command goes on with."""
        return (self.agent / TRAINING).is_file()

    def difference(self, config: Mapping[str, Any]) -> str | None:
        """Where training as `config` says differs first from what was asked for here; None where it
        does not.

        Raises:
            ValueError: The file here is damaged.
        """
        return first_difference(_asked_for(_read(self.config)), _asked_for(config))

    def begin(self, config: Mapping[str, Any]) -> None:
        """Make room for an agent. What the same command began stays where it is, so that the agent
        can go on with it; another one is set aside, and one that is finished.

        Args:
            config: How it is trained.
        """
        self.recover()
        if self.agent.is_dir() and (self._is_finished() or self.difference(config)):
            self._aside.mkdir()
            if self.config.is_file():
                _write(self._aside / CONFIG_FILE, _read(self.config))
            self.agent.rename(self._aside / AGENT_FOLDER)
        _write(self.config, {**config, "finished": False})
        self.agent.mkdir(exist_ok=True)

    def settle(self, finished: bool = False) -> bool:
        """End a training, and let one of two agents stay; returns whether it is the new one.

        The new one stays when it is finished. When it is not, it stays if there is something to go
        on with or to use, unless the same command had trained the one before. Where none stays,
        nothing is left.

        Args:
            finished: Whether the new agent was trained and saved.
        """
        if finished:
            _write(self.config, {**_read(self.config), "finished": True})
        before, its_config = self._aside / AGENT_FOLDER, self._aside / CONFIG_FILE
        stays = finished or self.holds_something()
        if stays and not finished and before.is_dir():
            stays = self.difference(_read(its_config)) is not None
        if stays:  # the file goes first: what is left of the folder then means nothing
            its_config.unlink(missing_ok=True)
        else:
            shutil.rmtree(self.agent, ignore_errors=True)
            self.config.unlink(missing_ok=True)
            self._restore()
        shutil.rmtree(self._aside, ignore_errors=True)
        return stays

    def recover(self) -> None:
        """Settle what was killed before it could be."""
        if (self._aside / AGENT_FOLDER).is_dir():
            self.settle(self.agent.is_dir() and self._is_finished())
        elif self._aside.is_dir():
            self._restore()
            shutil.rmtree(self._aside)

    def holds_something(self) -> bool:
        """Whether there is a checkpoint or an agent, finished or not."""
        nothing = {"log", configured.CONFIG_FILE, configured.SETTINGS_FILE}
        names = {one.name for one in self.agent.iterdir()} if self.agent.is_dir() else set()
        return any(name not in nothing and not name.endswith(".partial") for name in names)

    def _is_finished(self) -> bool:
        """Whether the agent was trained to its end; earlier versions did not write it down."""
        return bool(_read(self.config).get("finished", not self.is_resumable))

    def _restore(self) -> None:
        """Put back what was set aside, as far as it has not been."""
        for there, here in (
            (self._aside / AGENT_FOLDER, self.agent),
            (self._aside / CONFIG_FILE, self.config),
        ):
            if there.exists():
                there.replace(here)


def _read(file: Path) -> dict[str, Any]:
    """What a file says of a training; nothing where there is none.

    Raises:
        ValueError: It is damaged.
    """
    return read_object(file, {}, "delete it") if file.is_file() else {}


def _write(file: Path, config: Mapping[str, Any]) -> None:
    with whole_file(file) as partial:
        partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _asked_for(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides about an agent, and not how far its training went."""
    return {key: value for key, value in config.items() if key not in ("seconds", "finished")}
