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
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from benchmarks.results import Cell
from benchmarks.results.rows import OWN_PACKAGES

_PACKAGES = frozenset({"site-packages", "dist-packages"})  # what installers call their folders


def import_strangers(cell: Cell) -> None:
    """Import the modules of the cell's import paths.

    Raises:
        ImportError: There is no module of environment, suite, task or agent, or it would end this
            process.
    """
    for path in cell.parts:
        try:
            importlib.import_module(_module(path))
        except SystemExit as error:
            raise ImportError(
                f"the module of {path} ends its process: SystemExit: {error}"
            ) from error
    for path in cell.mentioned:
        # It may be a text that happens to look like a path; whoever takes it for one says what is
        # wrong with it.
        with suppress(Exception, SystemExit):
            importlib.import_module(_module(path))


def is_ours(cell: Cell) -> bool:
    """Whether all of the cell's import paths lead to editgym's own code."""
    return all(path.startswith(("editgym.", "agents.")) for path in cell.strangers)


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


def carried_modules(cells: Iterable[Cell]) -> list[Path]:
    """The modules (files) and packages (folders) that another machine has to be given, before it
    can import what the cells name: strangers' own, and those with the names that lie beside them,
    as an import finds them here. What is installed is not carried: the other machine has it
    installed too.
    """
    names = {_module(path).partition(".")[0] for cell in cells for path in cell.strangers}
    named = [place for name in sorted(names - OWN_PACKAGES) for place in _places(name)]
    beside = [
        place
        for folder in dict.fromkeys(place.parent for place in named)
        for entry in sorted(folder.iterdir())
        if entry.suffix == ".py" or (entry / "__init__.py").is_file()
        for place in _places(entry.stem)
        if entry.stem.isidentifier() and entry.stem not in OWN_PACKAGES
    ]
    return list(dict.fromkeys([*named, *beside]))


def _places(name: str) -> list[Path]:
    """Where an import finds a module without a package: its file, or the package's folders; nothing
    where it is installed, or not there.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a module that was made, not found
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        places = [Path(folder) for folder in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return [place for place in map(Path.absolute, places) if not _is_installed(place)]


def _is_installed(place: Path) -> bool:
    """Whether a module is the standard library's, or one that an installer put where it is."""
    library = Path(sysconfig.get_path("stdlib"))
    return place.is_relative_to(library) or not _PACKAGES.isdisjoint(place.parts)


def _module(path: str) -> str:
    """The module of an import path."""
    return path.partition(":")[0]


def _file_hash(module: str) -> str | None:
    """The hash of a module's file, which is not imported for it, nor are the packages around it:
    this may be the process that writes rows.
    """
    try:
        spec = sys.modules[module].__spec__ if module in sys.modules else _found(module)
        if spec is None or spec.origin is None:
            return None
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    except Exception:  # a finder of modules may be a stranger's
        return None


def _found(module: str) -> ModuleSpec | None:
    """Where an import would find a module."""
    package, _, _ = module.rpartition(".")
    if not package:
        return importlib.util.find_spec(module)
    around = _found(package)
    return (
        None if around is None else PathFinder.find_spec(module, around.submodule_search_locations)
    )
