"""Where data sets are read from and trained networks are kept."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """`EDITGYM_DATA`, by default `~/.cache/editgym/data`."""
    return Path(os.environ.get("EDITGYM_DATA") or "~/.cache/editgym/data").expanduser().absolute()


def cache_folder() -> Path:
    """`EDITGYM_CACHE`, by default `~/.cache/editgym`."""
    return Path(os.environ.get("EDITGYM_CACHE") or "~/.cache/editgym").expanduser().absolute()
