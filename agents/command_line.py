"""What `agents.train` and `agents.edit` share: settings on the command line, and the folder between
them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

import editgym  # noqa: F401 - registers the environments
from envs_registry import environment_spec

CONFIG_FILE = "config.json"
AGENT_FOLDER = "agent"


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why, without a traceback."""


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs as a dict; a value is JSON where it parses, else text.

    Raises:
        UsageError: A pair has no `=` or no key.
    """
    parsed: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--set: {pair!r} is not key=value")
        try:
            parsed[key] = json.loads(value)
        except json.JSONDecodeError:
            parsed[key] = value
    return parsed


def settings_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file of settings.

    Raises:
        UsageError: There is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text())
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
