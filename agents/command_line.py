"""What `agents.train` and `agents.edit` share: settings on the command line, and the folder between
them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

import editgym  # noqa: F401 - registers the environments
from editgym.checks import as_json
from envs_registry import environment_spec

CONFIG_FILE = "config.json"
AGENT_FOLDER = "agent"


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why, without a traceback."""


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs as a dict; a value is JSON where it parses, else text.

    Raises:
        UsageError: A pair has no `=` or no key, or its value is no number that JSON has.
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set: {pair!r} is not key=value")
        parsed[key] = typed_value(value, f"--set {key}")
    return parsed


def typed_value(text: str, name: str) -> Any:
    """A value as it is typed: JSON where it parses, else text.

    Args:
        text: What was typed.
        name: What it is the value of, for messages.

    Raises:
        UsageError: It is, or holds, a number that JSON does not have, such as NaN.
    """
    try:
        return json_value(text, name)
    except json.JSONDecodeError:
        return text


def json_value(text: str, name: str) -> Any:
    """The value of a JSON text.

    Args:
        text: The text.
        name: What it is the value of, for messages.

    Raises:
        json.JSONDecodeError: It is no JSON.
        UsageError: It holds a number that JSON does not have: NaN, one that is infinite, or an
            integer of thousands of digits.
    """
    try:
        return as_json(json.loads(text), name)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        said = str(error) if str(error).startswith(name) else f"{name}: {error}"
        raise UsageError(said) from error


def settings_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file of settings.

    Raises:
        UsageError: There is no such file, or it holds something else.
    """
    try:
        found = json_value(path.read_text(encoding="utf-8"), f"--settings {path}")
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(f"--settings: cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(
            f'--settings: {path} holds {found!r}; write a JSON object, such as {{"num_envs": 8}}'
        )
    return found


def env_spec(env_id: str, arguments: dict[str, Any], *, evaluation: bool = False) -> EnvSpec:
    """`environment_spec`, with the user's mistakes as such.

    Raises:
        UsageError: No environment has this id.
    """
    try:
        return environment_spec(env_id, arguments, evaluation=evaluation)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(f"--env: {error}") from error


def made_env(spec: EnvSpec, env_id: str, arguments: Mapping[str, Any]) -> gym.Env:
    """The environment of a spec, with the user's mistakes as such.

    Args:
        spec: The spec, with its kwargs.
        env_id: The environment's name as it was given, for messages.
        arguments: The arguments that the user gave, for messages.

    Raises:
        UsageError: A stranger's environment does not take them.
        ValueError: One of editgym's does not.
    """
    try:
        return gym.make(spec)
    except TypeError as error:  # what a constructor says of an argument that it does not know
        raise UsageError(f"--set: {env_id} cannot be made with {arguments}: {error}") from error


def writable(folder: Path) -> Path:
    """`folder`, made if need be.

    Raises:
        UsageError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out: cannot write to {folder}: {error}") from error
    return folder
