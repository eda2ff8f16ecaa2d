"""What `agents.train`, `agents.edit` and `agents.tune` share: settings on the command line and in
files, and the folder between the first two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
from filelock import FileLock, Timeout
from gymnasium.envs.registration import EnvSpec

import editgym  # noqa: F401 - registers the environments
from agents.checkpoints import CONFIG_FILE
from agents.tune.settings_file import TunedSettings
from editgym.checks import as_json
from editgym.paths import cache_folder, read_object
from envs_registry import environment_spec

MOST_SEED = 2**32 - 1  # of NumPy's older generators
_OF_AGENT = "agent."
_GYMNASIUM_ADDS = " was raised from the environment creator for "  # what was given, once more
_FACTWORLD, _CUSTOM = "knowledge/factworld", "knowledge/custom"


class UsageError(ValueError):
    """What the user asked for cannot be done; the message says why, without a traceback."""


def seed(text: str) -> int:
    """The seed that is typed after `--seed`, as every generator takes it."""
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_SEED):
        raise argparse.ArgumentTypeError(
            f"must be from 0 to {MOST_SEED}, a whole number, got {text!r}"
        )
    return int(text)


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


def divided(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `--set` gives, in two: arguments of the environment, and settings of the agent, whose
    names begin with `agent.`.
    """
    env_kwargs: dict[str, Any] = {}
    agent_config: dict[str, Any] = {}
    for key, value in given.items():
        name = key.removeprefix(_OF_AGENT)
        (env_kwargs if name == key else agent_config)[name] = value
    return env_kwargs, agent_config


class GivenSettings(NamedTuple):
    """What `--settings FILE` gives.

    Attributes:
        settings: Settings of the agent, by name.
        env_kwargs: Arguments of the environment, by name.
        tuned: What a study found, if the file is a study's.
    """

    settings: Mapping[str, Any]
    env_kwargs: Mapping[str, Any]
    tuned: TunedSettings | None

    @classmethod
    def read(cls, path: Path | None, agent: str) -> GivenSettings:
        """The settings in a file, for an agent: those that a study found, or any by name.

        Args:
            path: The file; None for none.
            agent: The agent's name.

        Raises:
            ValueError: There is no such file, or it holds no JSON object, or another agent's
                settings.
        """
        if path is None:
            return cls({}, {}, None)
        found = settings_file(path)
        tuned = TunedSettings.of(found)
        if tuned is None:
            return cls(found, {}, None)
        tuned.check_agent(agent)
        return cls(tuned.settings, tuned.env_kwargs, tuned)


def trained_as(folder: Path) -> dict[str, Any] | None:
    """How the agent in a folder was trained, as `agents.train` wrote it; None where nothing says.

    Raises:
        ValueError: The file that says it is damaged.
    """
    file, needed = folder / CONFIG_FILE, {"agent": str, "env_id": str, "env_kwargs": dict}
    again = "train the agent again: python -m agents.train --out DIR …"
    return read_object(file, needed, again) if file.is_file() else None


def env_spec(env_id: str, arguments: dict[str, Any], *, evaluation: bool = False) -> EnvSpec:
    """`environment_spec`, with the user's mistakes as such.

    Requests without a task are those of `knowledge/custom`: FactWorld has its own.

    Raises:
        UsageError: No environment has this id.
    """
    try:
        spec = environment_spec(env_id, arguments, evaluation=evaluation)
    except (gym.error.Error, ImportError) as error:
        raise UsageError(f"--env: {error}") from error
    if "requests" in arguments and "task" not in arguments:
        from agents.episodes import spec_arguments  # loads PyTorch

        if spec_arguments(spec).get("task") == _FACTWORLD:
            spec.kwargs["task"] = _CUSTOM
    return spec


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
        said, *_ = str(error).partition(_GYMNASIUM_ADDS)
        raise UsageError(f"--set: {env_id} cannot be made with {arguments}: {said}") from error


@contextmanager
def alone_in(folder: Path, argument: str) -> Iterator[None]:
    """Let no other process of this machine train into a folder, or edit there, at the same time.

    Args:
        folder: Where this process is at work.
        argument: How the command line calls it.

    Raises:
        UsageError: Another process is.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:24]
    lock = FileLock(cache_folder() / "locks" / f"{name}.lock", timeout=0)
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{argument}: another process is at work in {folder}; wait for it, or give another"
            " folder"
        ) from None
    except OSError:
        pass  # there is no lock where the cache cannot be written, and the work does not need it
    try:
        yield
    finally:
        lock.release()


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
