"""Where a row was measured: versions of the software, the machine, and the commit of the source
tree.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.strangers import module_hashes
from benchmarks.results import Cell
from editgym.version import __version__

# Every package that may decide a result, by the name that it is installed under.
_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "scikit-learn",
    "transformers",
    "tokenizers",
    "safetensors",
    "gymnasium",
    "stable-baselines3",
    "sb3-contrib",
    "cmaes",
    "peft",
    "accelerate",
    "gguf",
)


def provenance(cell: Cell) -> dict[str, Any]:
    """`versions`, `hardware` and `git` of this process, and the `modules` of the cell's parts that
    are not editgym's, JSON-able.
    """
    return {**_of_process(), "modules": module_hashes(cell)}


def processor(hardware: Mapping[str, Any]) -> str:
    """The processor that a row's hardware names, and the instructions of it that torch uses, which
    names such as "AMD EPYC" leave open.
    """
    instructions = hardware.get("instructions", "with instructions that it does not record")
    return f"{hardware.get('cpu')}, {instructions}"


@functools.cache
def _of_process() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "editgym": __version__}
    versions |= {name: version for name in _PACKAGES if (version := _version(name)) is not None}
    versions["torch"] = torch.__version__  # with its build: for which processor or CUDA
    hardware = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cpu": cpu_model(),
        # Torch's products are different ones for each, and so are the last bits of sums.
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cpu_count": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    return {"versions": versions, "hardware": hardware, "git": source_commit(Path(__file__))}


def _version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_commit(file: Path) -> str | None:
    """Commit of the working tree that `file` is tracked in, with `-dirty` after uncommitted
    changes, else None.
    """
    try:
        # An installed package may lie inside somebody else's repository: only a tracked file tells
        # its commit.
        _git(file, "ls-files", "--error-unmatch", file.name)
        return _git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(file: Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=30
    ).stdout.strip()


def cpu_model() -> str:
    """The processor's name; Linux keeps it where `platform` does not look."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor()
