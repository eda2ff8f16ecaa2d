"""Settings of agents and arguments of tasks, as they are given on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.command_line import UsageError, json_value, typed_value
from agents.tune.settings_file import TunedSettings


def read_given(files: Sequence[Path], pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings by the name of their agent or task.

    Args:
        files: JSON files, {name: {key: value}} or what `agents.tune` found; values of a later one
            take the place of an earlier one's.
        pairs: Texts `NAME.KEY=VALUE`, which take the place of what is in the files. A value that is
            no JSON is text.

    Raises:
        ValueError: A file holds something else, a text has another form, or a value is no number
            that JSON has, or a file cannot be read; the message names it.
    """
    given: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, own in _from_file(file).items():
            given.setdefault(name, {}).update(own)
    for pair in pairs:
        described, equals, value = pair.partition("=")
        name, dot, key = described.rpartition(".")
        if not (equals and dot and name and key):
            raise ValueError(f"--set must be NAME.KEY=VALUE, got {pair!r}")
        given.setdefault(name, {})[key] = typed_value(value, f"--set {described}")
    return given


def read_tuned(files: Sequence[Path]) -> list[TunedSettings]:
    """What studies of `agents.tune` found, from those of the files that are theirs.

    Raises:
        ValueError: A file cannot be read or holds no JSON object, or two are of one agent.
    """
    found = [one for file in files if (one := TunedSettings.of(_read(file))) is not None]
    agents = [one.agent for one in found]
    if twice := sorted({agent for agent in agents if agents.count(agent) > 1}):
        raise ValueError(f"--settings: more than one file has settings of {', '.join(twice)}")
    return found


def _from_file(file: Path) -> Mapping[str, Mapping[str, Any]]:
    found = _read(file)
    if (tuned := TunedSettings.of(found)) is not None:
        return {tuned.agent: tuned.settings}
    if not all(isinstance(own, dict) for own in found.values()):
        raise ValueError(f"--settings: {file} must be {{NAME: {{KEY: VALUE}}}}")
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json_value(file.read_text(encoding="utf-8"), f"--settings {file}")
    except UsageError:
        raise
    except OSError as error:
        raise ValueError(f"--settings: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--settings: {file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"--settings: {file} must be {{NAME: {{KEY: VALUE}}}}")
    return found
