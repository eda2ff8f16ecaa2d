"""What agents say of themselves, before and after they run: whether they are agents, their settings
in full, and which of these name folders.

A stranger's is asked in a process that ends with its answer: importing its module and calling its
constructor runs its code, and what that does must not reach the process which writes everybody's
rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Timer
from typing import Any

from agents.catalogue import SettingsError, agent_class
from benchmarks.harness.processes import CallError, TimeLimitError, call_apart
from benchmarks.harness.strangers import import_strangers, is_ours
from benchmarks.results import Cell
from benchmarks.results.lines import printable
from benchmarks.results.resolved import resolved_settings
from editgym.imports import is_import_path

# Seconds: it is but an import and a constructor.
_LIMIT = 600.0
_PATIENCE = 10.0  # seconds, after which a person is told what is waited for


@dataclass
class _Waits:
    """How long an agent is waited for, and who said nothing for so long: it is not asked again."""

    limit: float = _LIMIT
    silent: set[str] = field(default_factory=set)


_waits = _Waits()


@contextmanager
def waiting_at_most(seconds: float) -> Iterator[None]:
    """While the context is open, no agent is waited for longer than a cell may take."""
    before, _waits.limit = _waits.limit, min(_LIMIT, seconds)
    try:
        yield
    finally:
        _waits.limit = before


def check_agent(name: str) -> None:
    """Refuse a name that is no agent's.

    A stranger's that says nothing, since its process ended or hung, is none that is refused: its
    cells fail, with the reason.

    Raises:
        ValueError: There is no such agent, or the import path leads to none.
    """
    if not is_import_path(name):
        agent_class(name)
    elif isinstance(problem := _asked(_class_problem, name, name), str):
        raise ValueError(problem)


def settings_of(cell: Cell) -> Mapping[str, Any]:
    """The settings that the cell's agent works with, in full; what was typed where the agent does
    not say (`benchmarks.results.resolved`).

    Raises:
        SettingsError: The agent takes no such setting, or a value is not right.
    """
    if is_ours(cell):
        return resolved_settings(cell.agent, cell.agent_config, cell.env_id, cell.env_kwargs)
    found = _asked(_settings, cell, cell.agent)
    if isinstance(found, str):
        raise SettingsError(found)
    return found if isinstance(found, dict) else dict(cell.agent_config)


def named_folders(agent: str) -> list[str]:
    """The settings of an agent that name a file or folder which it reads, as far as it says so."""
    found = _asked(_folders, agent, agent) if is_import_path(agent) else _folders(agent)
    return [name for name in found or () if isinstance(name, str)]


def _asked(function: Callable[[Any], Any], what: Any, agent: str) -> Any:
    """What a function returns in a process of its own; None where it does not get to that, or the
    agent has said nothing before.
    """
    if agent in _waits.silent:
        return None
    told = f"waiting for {agent} to be imported and made, {_waits.limit:,.0f} s at most"
    timer = Timer(_PATIENCE, _tell, [told])
    timer.daemon = True
    timer.start()
    try:
        deadline = time.monotonic() + _waits.limit
        return call_apart(function, what, deadline=deadline, longest=2**20)
    except TimeLimitError:
        _waits.silent.add(agent)
        _tell(
            f"{agent} did not say what it is within {_waits.limit:,.0f} s, and is not asked again"
        )
        return None
    except CallError:
        return None
    finally:
        timer.cancel()


def _tell(text: str) -> None:
    print(printable(text, kept=""), file=sys.stderr, flush=True)


def _class_problem(name: str) -> str | None:
    try:
        agent_class(name)
        return None
    except ValueError as error:
        return str(error)


def _settings(cell: Cell) -> Mapping[str, Any] | str:
    """The settings, or why they are refused."""
    with suppress(Exception):  # the suite's module may register the environment
        import_strangers(cell)
    try:
        return resolved_settings(cell.agent, cell.agent_config, cell.env_id, cell.env_kwargs)
    except SettingsError as error:
        return str(error)


def _folders(agent: str) -> list[str]:
    settings_type: Any = getattr(agent_class(agent), "settings_type", None)
    return list(settings_type.named_folders()) if hasattr(settings_type, "named_folders") else []
