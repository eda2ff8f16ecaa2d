"""Parts by import path, `package.module:name`: importable in every process, and told apart in rows.

A process of its own, on this machine or on a cluster's node, is given the paths that modules are
found on, and imports a cell's modules before it makes anything: a module registers environments
and families of metrics while it is imported. These are the modules of its environment, suite, task
and agent, and of every import path among their arguments and settings.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.results import Cell


def import_strangers(cell: Cell) -> None:
    """Import the modules of the cell's import paths.

    Raises:
        ImportError: There is no module of environment, suite, task or agent.
    """
    for path in cell.parts:
        importlib.import_module(_module(path))
    for path in cell.mentioned:
        # It may be a text that happens to look like a path; whoever takes it for one says what is
        # wrong with it.
        with suppress(Exception):
            importlib.import_module(_module(path))


def without_agent(cell: Cell) -> Cell:
    """The cell as who evaluates it needs to know it: without the agent and its settings."""
    return replace(cell, agent="", agent_config={}, settings={})


def module_hashes(cell: Cell) -> dict[str, str | None]:
    """By module of the cell's import paths, SHA-256 (hexadecimal) of its file; None where it has
    none, or is not there. A text among the settings whose module is not there is no import path.
    """
    parts = {_module(path) for path in cell.parts}
    hashes = {
        module: _file_hash(module)
        for module in dict.fromkeys(_module(path) for path in cell.strangers)
    }
    return {module: found for module, found in hashes.items() if found or module in parts}


def find_modules_in(folders: Sequence[str]) -> None:
    """Look for modules in these folders too, after those that this process looks in already."""
    sys.path += [folder for folder in folders if folder not in sys.path]


def _module(path: str) -> str:
    """The module of an import path."""
    return path.partition(":")[0]


def _file_hash(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return None
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    except Exception:  # the packages around the module are imported, and may raise anything
        return None
