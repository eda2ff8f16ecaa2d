"""Take edits out of editgym as a merged checkpoint."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editgym.imports import is_pretrained_model
from editgym.paths import renewed_folder
from editgym.weights.journal.journal import Adapter
from editgym.weights.overlay import EditedWeights
from editgym.weights.tensor_file import write_tensors


class ExportError(ValueError):
    """The edits cannot be written in the format asked for."""


def export_merged(
    network: EditedWeights,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    inside: str = "",
) -> Path:
    """Write the edited network's state dict as safetensors, floating-point tensors as `dtype`.

    Loaded into a fresh network of the same class it gives the edited network's logits exactly (in
    float32).

    Args:
        network: The network.
        path: The file.
        dtype: Precision of the written weights.
        inside: Writes a module's tensors alone, those whose names begin so, without this beginning.

    Raises:
        ExportError: The journal holds adapters beside the weights, no tensor's name begins with
            `inside`, or a weight is too large for `dtype`. Nothing is written then.
    """
    _weights_only(network)
    names = [name for name, _ in network.current_tensors()]
    if not any(name.startswith(inside) for name in names):
        raise ExportError(
            f"inside: no tensor's name begins with {inside!r}; they begin as {names[:3]}"
        )
    about = {"format": "pt", "base_hash": network.base_hash}
    tensors = {
        name.removeprefix(inside): tensor
        for name, tensor in _on_cpu(network, dtype, inside).items()
    }
    return write_tensors(Path(path), tensors, about)


def export_pretrained(
    network: EditedWeights, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Path:
    """Write an edited `transformers` model as a checkpoint that `from_pretrained(folder)` loads.

    Args:
        network: Its base is a `PreTrainedModel`.
        folder: Made if need be, and written completely or not at all; what else is there stays.
        dtype: Precision of the written weights; float32 keeps the edits exactly.

    Raises:
        ExportError: The journal holds adapters beside the weights (codebooks, prepended texts,
            remembered facts), the base is no `transformers` model, or a weight is too large for
            `dtype`. Nothing is written then.
        OSError: The folder cannot be written; what was there stays.
    """
    _weights_only(network)
    if not is_pretrained_model(network.base):
        raise ExportError(
            f"{type(network.base).__name__} is no transformers model: use export_merged"
        )
    with torch.device(
        "meta"
    ):  # a model without numbers, for its configuration and the names of what is saved
        model: Any = type(network.base)(copy.deepcopy(network.base.config))
    model.to(dtype).load_state_dict(_on_cpu(network, dtype), assign=True)
    model.tie_weights()
    if hasattr(network.base, "generation_config"):  # what generates no text has none
        model.generation_config = network.base.generation_config
    with renewed_folder(Path(folder), ("model*.safetensors*",)) as partial:
        model.save_pretrained(partial)
    return Path(folder)


def _on_cpu(network: EditedWeights, dtype: torch.dtype, inside: str = "") -> dict[str, Tensor]:
    """The edited state dict, tensor by tensor: one copy in all, and none on the network's
    device.

    Args:
        network: The network.
        dtype: Precision of tensors with floating point.
        inside: What their names begin with.
    """
    found = {}
    for name, tensor in network.current_tensors():
        if not name.startswith(inside):
            continue
        own = dtype if tensor.is_floating_point() else tensor.dtype
        found[name] = tensor.to("cpu", own, copy=True).contiguous()
        if own != tensor.dtype and _overflows(tensor.cpu(), found[name]):
            raise ExportError(f"dtype: {name} has numbers that are too large for {dtype}")
    return found


def _overflows(before: Tensor, after: Tensor) -> bool:
    """Whether a number that was finite is so no more."""
    lost = before.isfinite() & ~after.float().isfinite()
    return bool(lost.any())


def _weights_only(network: EditedWeights) -> None:
    """Refuse a journal with adapters beside the weights."""
    beside = sorted({entry.kind for entry in network.journal if isinstance(entry, Adapter)})
    if beside:
        raise ExportError(
            f"the journal holds {', '.join(beside)}: adapters beside the weights, which no"
            " checkpoint of weights can hold"
        )
