"""Parts by import path, `package.module:name`: importable in every process, and told apart in rows.

A process of its own, on this machine or on a cluster's node, is given the paths that modules are
found on, and imports a cell's modules before it makes anything: a module registers environments
and families of metrics while it is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Cell


def import_strangers(cell: Cell) -> None:
    """Import the modules of the cell's parts that are import paths.

    Raises:
        ImportError: There is no such module.
    """
    for path in cell.strangers:
        importlib.import_module(path.partition(":")[0])


def module_hashes(cell: Cell) -> dict[str, str | None]:
    """By module of the cell's import paths, SHA-256 (hexadecimal) of its file; None where it has
    none, or is not there.
    """
    return {
        module: _file_hash(module)
        for module in dict.fromkeys(path.partition(":")[0] for path in cell.strangers)
    }


def find_modules_in(folders: Sequence[str]) -> None:
    """Look for modules in these folders too, after those that this process looks in already."""
    sys.path += [folder for folder in folders if folder not in sys.path]


def _file_hash(module: str) -> str | None:
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            return None
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    except (ImportError, ValueError, OSError):
        return None
