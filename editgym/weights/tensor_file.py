"""Tensors in a file: safetensors, written whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from editgym.paths import whole_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write named tensors and a few words about them, completely or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    with whole_file(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata=dict(metadata))
        except SafetensorError as error:  # it is no OSError, and names the partial file
            raise OSError(f"cannot write {path}: {error}") from error
    return path
