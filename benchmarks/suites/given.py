"""Settings of agents and arguments of tasks, as they are given on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.command_line import UsageError, json_value, typed_value


def read_given(file: Path | None, pairs: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings by the name of their agent or task.

    Args:
        file: A JSON file, {name: {key: value}}; None for none.
        pairs: Texts `NAME.KEY=VALUE`, which take the place of what is in the file. A value that is
            no JSON is text.

    Raises:
        ValueError: The file holds something else, a text has another form, or a value is no number
            that JSON has; the message names it.
        OSError: The file cannot be read.
    """
    given = {} if file is None else _from_file(file)
    for pair in pairs:
        described, equals, value = pair.partition("=")
        name, dot, key = described.rpartition(".")
        if not (equals and dot and name and key):
            raise ValueError(f"--set must be NAME.KEY=VALUE, got {pair!r}")
        given.setdefault(name, {})[key] = typed_value(value, f"--set {described}")
    return given


def _from_file(file: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json_value(file.read_text(encoding="utf-8"), f"--settings {file}")
    except UsageError:
        raise
    except ValueError as error:
        raise ValueError(f"--settings: {file} is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()):
        raise ValueError(f"--settings: {file} must be {{NAME: {{KEY: VALUE}}}}")
    return found
