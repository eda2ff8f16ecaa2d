"""The files and folders that an agent's settings name, such as a policy that it starts from: two
rows whose settings are one text may be of two policies.

The harness takes their hashes before the agent begins and once it is done. What has changed
meanwhile the agent has written to, and is no longer what it read: it has no hash. A text that is
one word may be anybody's name for anything: a folder is meant by a path with a separator, or by a
setting of which the agent says that it names one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.asking import named_folders
from benchmarks.harness.fingerprints import file_hash
from benchmarks.results import AGENT_FILES, Cell, Row, texts_in
from editgym.imports import is_written_as_path

# A policy has a few files; what has more is no agent's, but somebody's disk.
_MOST = 2_000


def agent_files(cell: Cell) -> dict[str, str | None]:
    """By text among the agent's settings that names a file or folder which is here, SHA-256
    (hexadecimal) of what is in it; None of a folder with too many files.
    """
    texts = dict.fromkeys(texts_in([cell.agent_config, cell.resolved]))
    found: dict[str, str | None] = {}
    for text in texts:
        try:
            path = Path(os.path.expanduser(text)).absolute()
            if is_written_as_path(text) or not text.strip():
                continue
            if path.is_file():
                found[text] = file_hash(path)
            elif path.is_dir() and _is_meant(text, path, cell):
                found[text] = _folder_hash(path)
        except (OSError, RuntimeError, ValueError):  # no name of a file, or nobody may read it
            continue
    return found


def unchanged(
    before: Mapping[str, str | None], after: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The hashes of files as they were before, but for those that are not so any more."""
    return {name: found if after.get(name) == found else None for name, found in before.items()}


def known_files(row: Row) -> dict[str, str]:
    """The hashes of the agent's files that a row knows: a row of an earlier version has none."""
    recorded = row["fingerprints"].get(AGENT_FILES) or {}
    return {name: found for name, found in recorded.items() if found is not None}


def of_agent(row: Row) -> dict[str, Any]:
    """The part of a row's fingerprints that is of its agent's files, for a row of the same edit."""
    return {AGENT_FILES: row["fingerprints"].get(AGENT_FILES)}


def changed_files(row: Row) -> list[str]:
    """The agent's files that are here and are not what they were when the row was measured."""
    recorded = known_files(row)
    if not recorded:
        return []
    here = agent_files(Cell.of(row))
    return [name for name, found in recorded.items() if here.get(name, found) != found]


def _is_meant(text: str, path: Path, cell: Cell) -> bool:
    """Whether a text that is the name of a folder was given as one."""
    if path in (Path.cwd(), *Path.cwd().parents, Path.home()):
        return False  # ".", "/" and the like stand for many things
    if os.sep in text or text.startswith("~"):
        return True
    return any(cell.resolved.get(name) == text for name in named_folders(cell.agent))


def _folder_hash(folder: Path) -> str | None:
    digest = hashlib.sha256()
    files = list(_files(folder))
    if len(files) > _MOST:
        return None
    for name, path in sorted(files):
        digest.update(f"{len(name)} {name} {file_hash(path)} ".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files in a folder, by their names from there, one more than there may be at most."""
    count = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(place) / name
            if path.is_file():
                yield str(path.relative_to(folder)), path
                count += 1
            if count > _MOST:
                return
