"""Agents saved by Stable-Baselines3, also those whose files name modules by what they were called
before the modules moved.

SB3's zip file holds pickled classes and functions by their modules' names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stable_baselines3.common.base_class import BaseAlgorithm

from editgym.models.training import generators_kept
from editgym.paths import whole_file

MODEL_FILE = "model.zip"
# What a module was called before, and what it is called now.
MOVED = {
    "agents.policies": "agents.rl.policies",
    "agents.sb3_budget": "agents.rl.budget",
    "agents.general_editor": "agents.rl.equivariant",
}


def save_model(model: BaseAlgorithm, folder: Path) -> None:
    """Write an algorithm and its policy into `folder`, completely or not at all."""
    with whole_file(folder / MODEL_FILE) as file:
        model.save(file)


def load_model(kind: type[BaseAlgorithm], folder: Path) -> BaseAlgorithm:
    """The algorithm that `save_model` wrote; the file holds pickled objects, so it must be trusted.

    Raises:
        FileNotFoundError: There is none in `folder`.
        ValueError: It is damaged, or names modules or classes that are not there any more.
    """
    file = folder / MODEL_FILE
    if not file.is_file():
        raise FileNotFoundError(f"no agent in {folder}: there is no {MODEL_FILE}")
    # SB3 seeds the global generators with the seed that an algorithm was made with.
    with _old_names(), generators_kept():
        try:
            return kind.load(file, device="cpu")
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"{file} was saved by code whose parts have moved: {error}; train the agent again:"
                " python -m agents.train with the settings in config.json beside it"
            ) from error
        except Exception as error:  # damage has as many names as SB3's reader has parts
            raise ValueError(f"{file} is damaged or is no agent: train the agent again") from error


@contextmanager
def _old_names() -> Iterator[None]:
    """Let modules be found by their old names, for as long as a file is loaded."""
    added = [old for old in MOVED if old not in sys.modules]
    for old in added:
        sys.modules[old] = importlib.import_module(MOVED[old])
    try:
        yield
    finally:
        for old in added:
            del sys.modules[old]
