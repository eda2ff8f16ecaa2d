"""Where data sets are read from and trained networks are kept, and how files are written whole and
read with what is damaged named.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from editgym.checks import shown

# Where files are, when they were written, nanoseconds, and how long they are, bytes.
FileStates = tuple[tuple[str, int, int], ...]


def data_folder() -> Path:
    """`EDITGYM_DATA`, by default `~/.cache/editgym/data`."""
    return Path(os.environ.get("EDITGYM_DATA") or "~/.cache/editgym/data").expanduser().absolute()


def cache_folder() -> Path:
    """`EDITGYM_CACHE`, by default `~/.cache/editgym`."""
    return Path(os.environ.get("EDITGYM_CACHE") or "~/.cache/editgym").expanduser().absolute()


def file_states(*paths: str) -> FileStates:
    """The states of the files among `paths` and in the folders among them, at any depth; what is
    missing has none.
    """
    inside = [
        os.path.join(folder, name)
        for path in paths
        for folder, _, names in os.walk(path)
        for name in names
    ]
    files = [path for path in (*paths, *sorted(inside)) if os.path.isfile(path)]
    states = [(os.path.abspath(path), os.stat(path)) for path in files]
    return tuple((path, state.st_mtime_ns, state.st_size) for path, state in states)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file completely or not at all, whatever interrupts the writing.

    Args:
        path: The file; its folder is made where it is missing.

    Yields:
        A path beside it, of this call alone, to write to. When the block ends it takes the
        file's place; when the block raises it is deleted, and the file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Write a folder completely or not at all, whatever interrupts the writing.

    Args:
        path: The folder; the one that it lies in is made where it is missing.
        replace: Whether it may take the place of what is there already; else only of an empty
            folder.

    Yields:
        An empty folder on the same disk, of this process alone, to write to. When the block ends it
        takes the folder's place; when the block raises it is deleted, and what was there stays.

    Raises:
        OSError: Something is at `path`, and may not be replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Inside the hidden folder, which is the owner's alone, lies one with the usual permissions.
    hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    partial, before = hidden / "new", hidden / "before"
    partial.mkdir()
    try:
        yield partial
        if replace and os.path.lexists(path):
            os.rename(path, before)
        os.rename(partial, path)
    finally:
        if os.path.lexists(before) and not os.path.lexists(path):
            os.rename(before, path)
        shutil.rmtree(hidden)


@contextmanager
def renewed_folder(path: Path, stale: Sequence[str] = ()) -> Iterator[Path]:
    """Write files into a folder, all of them or none; what else lies there stays.

    Args:
        path: The folder; it is made where it is missing.
        stale: Patterns of names that do not stay, as those of the same tensors in other parts.

    Yields:
        An empty folder, as `whole_folder` does.

    Raises:
        OSError: What is at `path` is no folder, or it cannot be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is no folder")
    with whole_folder(path, replace=True) as partial:
        yield partial
        for one in path.iterdir() if path.is_dir() else ():
            there = partial / one.name
            if os.path.lexists(there) or any(one.match(pattern) for pattern in stale):
                continue
            if one.is_dir() and not one.is_symlink():
                shutil.copytree(one, there, symlinks=True)
            else:
                shutil.copy2(one, there, follow_symlinks=False)


def read_object(file: Path, needed: Mapping[str, type], instead: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        file: The file.
        needed: What it must hold: names, and their values' types.
        instead: What to do where the file is damaged, for the message.

    Raises:
        ValueError: It holds something else; the message names the file.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged, it holds no JSON ({error}): {instead}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged, it holds {shown(found)} and no object: {instead}")
    for name, kind in needed.items():
        if not isinstance(found.get(name), kind):
            what = f"{name}={shown(found[name])}" if name in found else f"no {name}"
            raise ValueError(f"{file} is damaged, it holds {what}: {instead}")
    return found
