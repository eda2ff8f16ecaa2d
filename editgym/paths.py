"""Where data sets are read from and trained networks are kept."""

from __future__ import annotations

import os
from pathlib import Path

FileStates = tuple[
    tuple[int, int], ...
]  # when files were written, nanoseconds, and how long they are, bytes


def data_folder() -> Path:
    """`EDITGYM_DATA`, by default `~/.cache/editgym/data`."""
    return Path(os.environ.get("EDITGYM_DATA") or "~/.cache/editgym/data").expanduser().absolute()


def cache_folder() -> Path:
    """`EDITGYM_CACHE`, by default `~/.cache/editgym`."""
    return Path(os.environ.get("EDITGYM_CACHE") or "~/.cache/editgym").expanduser().absolute()


def file_states(*paths: str) -> FileStates:
    """Of the files among `paths`, and of those in the folders among them; what is not there has
    none.
    """
    inside = [entry.path for path in paths if os.path.isdir(path) for entry in os.scandir(path)]
    files = (os.stat(path) for path in (*paths, *sorted(inside)) if os.path.isfile(path))
    return tuple((file.st_mtime_ns, file.st_size) for file in files)
