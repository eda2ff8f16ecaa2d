"""State dicts in files: safetensors, or what `torch.save` writes, read without running its code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
# Where training scripts and Lightning put the state dict among the rest of a checkpoint.
_INSIDE = ("state_dict", "model_state_dict", "model")
_PARALLEL = "module."  # what DataParallel puts before every name


def state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a file.

    A file that ends in `.pt`, `.pth`, `.bin` or `.ckpt` is read by `torch.load(weights_only=True)`,
    which runs no code of the file, any other as safetensors. A checkpoint that holds the state dict
    under `state_dict`, `model_state_dict` or `model` is understood, and so are names that
    `DataParallel` has put `module.` before.

    Raises:
        ValueError: The file cannot be read so, or holds no state dict of finite numbers.
    """
    if path.suffix not in PICKLED:
        try:
            return _finite(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"it is no safetensors file: {error}") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"it holds more than tensors: write it by torch.save(model.state_dict(), {path.name!r})"
            f" ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"torch.load cannot read it: {error}") from error
    return _finite(_tensors(path, found))


def _tensors(path: Path, found: object) -> dict[str, Tensor]:
    """The state dict among what a file holds."""
    if isinstance(found, Mapping):
        inner = [found[name] for name in _INSIDE if isinstance(found.get(name), Mapping)]
        named = dict(inner[0] if inner else found)
        if named and all(isinstance(value, Tensor) for value in named.values()):
            if all(name.startswith(_PARALLEL) for name in named):
                return {name.removeprefix(_PARALLEL): value for name, value in named.items()}
            return named
    held = f"the keys {sorted(map(str, found))[:8]}" if isinstance(found, Mapping) else "no mapping"
    raise ValueError(
        f"it holds no state dict but {held}: write it by torch.save(model.state_dict(),"
        f" {path.name!r})"
    )


def _finite(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"its tensor {name!r} has numbers that are not finite")
    return tensors
