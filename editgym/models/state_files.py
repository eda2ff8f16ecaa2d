"""State dicts in files: safetensors, or what `torch.save` writes, read without running its code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as numpy_arrays
from safetensors.torch import load_file
from torch import Tensor

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
# Where training scripts and Lightning put the state dict among the rest of a checkpoint.
_INSIDE = ("state_dict", "model_state_dict", "model")
# What `save_pretrained` writes into its folder, and the list of parts of what is large.
_IN_FOLDER = ("model.safetensors", "pytorch_model.bin")
_PARTS = "model.safetensors.index.json"


def state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, or in the folder that `save_pretrained` of `transformers` writes.

    A file that ends in `.pt`, `.pth`, `.bin` or `.ckpt` is read by `torch.load(weights_only=True)`,
    which runs no code of the file, any other as safetensors. A checkpoint that holds the state dict
    under `state_dict`, `model_state_dict` or `model` is understood.

    Raises:
        ValueError: The file cannot be read so, or holds no state dict of finite numbers; a folder
            has no such file.
    """
    if path.is_dir():
        return {
            name: tensor
            for file in _files_in(path)
            for name, tensor in state_dict(path / file).items()
        }
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


def under_names(state: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor] | None:
    """A state dict under the names of a network, where its own differ from them by what stands
    before all of them: `module.` of `DataParallel`, `_orig_mod.` of `torch.compile`, `model.` of a
    class around the network.

    Args:
        state: The state dict.
        names: The network's own names.

    Returns:
        The same tensors; None where the names do not differ so.
    """
    for before in _beginnings(state):
        found = {name.removeprefix(before): tensor for name, tensor in state.items()}
        if found.keys() == set(names):
            return found
    for before in _beginnings(names):
        if {before + name for name in state} == set(names):
            return {before + name: tensor for name, tensor in state.items()}
    return None


def _beginnings(names: Collection[str]) -> Iterator[str]:
    """What all names begin with, up to a dot: nothing, one component of them, or several."""
    if not names:
        return
    parts = min(names).split(".")
    for count in range(len(parts)):
        before = "".join(f"{part}." for part in parts[:count])
        if not all(name.startswith(before) for name in names):
            return
        yield before


def _files_in(folder: Path) -> list[str]:
    """The files of a Hugging Face folder that hold the model.

    Raises:
        ValueError: There is none.
    """
    parts = folder / _PARTS
    if parts.is_file():
        try:
            return sorted(set(json.loads(parts.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"its {_PARTS} lists no files: {error}") from error
    for name in _IN_FOLDER:
        if (folder / name).is_file():
            return [name]
    raise ValueError(
        f"it is a folder without {' or '.join(_IN_FOLDER)}: give a file, or the folder that"
        " save_pretrained wrote"
    )


def _tensors(path: Path, found: object) -> dict[str, Tensor]:
    """The state dict among what a file holds."""
    if isinstance(found, Mapping):
        inner = [found[name] for name in _INSIDE if isinstance(found.get(name), Mapping)]
        named = dict(inner[0] if inner else found)
        if named and all(isinstance(value, Tensor) for value in named.values()):
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


def read_state(
    file: Path, needed: Collection[str], what: str, instead: str, device: str | None = "cpu"
) -> dict[str, Any]:
    """The state that `torch.save` wrote into a file; no code of the file is run.

    Args:
        file: The file.
        needed: Names that it must hold.
        what: What it is, after the word "no", for the message.
        instead: What to do where the file is damaged, for the message.
        device: Where its tensors go; None for where they were.

    Raises:
        ValueError: It holds something else; the message names the file.
    """
    try:
        found = torch.load(file, weights_only=True, map_location=device)
    except Exception as error:  # damage has as many names as the reader has parts
        raise ValueError(f"{file} is damaged or is no {what}: {instead}") from error
    if not isinstance(found, dict) or not all(name in found for name in needed):
        raise ValueError(f"{file} is damaged or is no {what}: {instead}")
    return found


def read_arrays(
    file: Path, needed: Collection[str], what: str, instead: str
) -> dict[str, NDArray[Any]]:
    """The arrays in a file of safetensors, by name; arguments and error are those of `read_state`.

    Raises:
        ValueError: It holds something else; the message names the file.
    """
    try:
        found = numpy_arrays(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file} is damaged or is no {what}: {instead}") from error
    if not all(name in found for name in needed):
        raise ValueError(f"{file} is damaged or is no {what}: {instead}")
    return found
