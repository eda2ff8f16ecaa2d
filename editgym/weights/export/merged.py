"""Take edits out of editgym as a merged checkpoint."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editgym.imports import is_pretrained_model
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
    """
    _weights_only(network)
    about = {"format": "pt", "base_hash": network.base_hash}
    tensors = {
        name.removeprefix(inside): tensor
        for name, tensor in _on_cpu(network, dtype).items()
        if name.startswith(inside)
    }
    return write_tensors(Path(path), tensors, about)


def export_pretrained(
    network: EditedWeights, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Path:
    """Write an edited `transformers` model as a checkpoint that `from_pretrained(folder)` loads.

    Args:
        network: Its base is a `PreTrainedModel`.
        folder: Made if need be.
        dtype: Precision of the written weights; float32 keeps the edits exactly.

    Raises:
        ExportError: The journal holds adapters beside the weights (codebooks, prepended texts,
            remembered facts), or the base is no `transformers` model.
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
    model.generation_config = network.base.generation_config
    model.save_pretrained(folder)
    return Path(folder)


def _on_cpu(network: EditedWeights, dtype: torch.dtype) -> dict[str, Tensor]:
    """The edited state dict, tensor by tensor: one copy in all, and none on the network's
    device.
    """
    return {
        name: (
            tensor.to("cpu", dtype if tensor.is_floating_point() else None, copy=True).contiguous()
        )
        for name, tensor in network.current_tensors()
    }


def _weights_only(network: EditedWeights) -> None:
    """Refuse a journal with adapters beside the weights."""
    beside = sorted({entry.kind for entry in network.journal if isinstance(entry, Adapter)})
    if beside:
        raise ExportError(
            f"the journal holds {', '.join(beside)}: adapters beside the weights, which no"
            " checkpoint of weights can hold"
        )
