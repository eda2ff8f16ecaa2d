"""Take edits out of editgym: as a PEFT LoRA adapter, or as a merged checkpoint."""

from __future__ import annotations

import copy
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from editgym.weights.factors import LowRankFactors
from editgym.weights.journal import Adapter, SiteEdit, Skip
from editgym.weights.operators import Shift
from editgym.weights.overlay import EditedWeights
from editgym.weights.sites import EditSite
from editgym.weights.tensor_file import write_tensors


class ExportError(ValueError):
    """The edits cannot be written in the format asked for."""


def export_merged(
    network: EditedWeights, path: str | os.PathLike[str], dtype: torch.dtype = torch.float32
) -> Path:
    """Write the edited network's state dict as safetensors, floating-point tensors as `dtype`.

    Loaded into a fresh network of the same class it gives the edited network's logits exactly (in
    float32).
    """
    _weights_only(network)
    about = {"format": "pt", "base_hash": network.base_hash}
    return write_tensors(Path(path), _on_cpu(network, dtype), about)


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
            remembered facts), or
            the base is no `transformers` model.
    """
    _weights_only(network)
    if not isinstance(network.base, PreTrainedModel):
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
    beside = sorted({entry.kind for entry in network.journal if isinstance(entry, Adapter)})
    if beside:
        raise ExportError(
            f"the journal holds {', '.join(beside)}: adapters beside the weights, which no"
            " checkpoint of weights can hold"
        )


def export_adapter(network: EditedWeights, folder: str | os.PathLike[str]) -> Path:
    """Write the network's journal as a PEFT LoRA adapter (`peft.PeftModel.from_pretrained(model,
    folder)`).

    Additive edits are LoRA: a site's edits add up to one ΔW, refactored to its numerical rank,
    which is at most min(out, in). `alpha_pattern` equals `rank_pattern`, so PEFT's scaling alpha/r
    is 1.

    Raises:
        ExportError: The journal is empty, holds edits that are not additive (masks, replaced
            tensors), or edits a convolution with groups, whose weight is no LoRA product in PEFT.
        ImportError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('an adapter needs PEFT: pip install "editgym[llm]"') from error
    folder = Path(folder)
    factors = {
        site.name: (site, *_site_factors(site, edits))
        for site, edits in _shifts_by_site(network).items()
    }
    ranks = {f"^{re.escape(name)}": a.shape[1] for name, (_, a, _) in factors.items()}
    tensors: dict[str, Tensor] = {}
    for name, (site, a, b) in factors.items():
        if site.kind == "conv2d":
            a, b = a[:, :, None, None], b.reshape(-1, *site.stored_shape[1:])
        tensors[f"base_model.model.{name}.lora_A.weight"] = b.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = a.contiguous()
    config = LoraConfig(
        target_modules="|".join(re.escape(name) for name in factors),
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
        fan_in_fan_out=all(site.kind == "conv1d" for site, _, _ in factors.values()),
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def _shifts_by_site(network: EditedWeights) -> dict[EditSite, list[SiteEdit]]:
    by_name = {site.name: site for site in network.sites}
    edits: dict[EditSite, list[SiteEdit]] = defaultdict(list)
    for i, entry in enumerate(network.journal):
        if isinstance(entry, Skip):
            continue
        if not (isinstance(entry, SiteEdit) and isinstance(entry.operator, Shift)):
            raise ExportError(
                f"entry {i} is a {entry.kind}: only additive edits (low_rank_shift, dense_shift)"
                " are a LoRA adapter; export the merged weights instead"
            )
        if getattr(network.base.get_submodule(entry.site), "groups", 1) > 1:
            raise ExportError(
                f"{entry.site} is a convolution with groups, which PEFT's LoRA cannot express;"
                " export the merged weights instead"
            )
        edits[by_name[entry.site]].append(entry)
    if not edits:
        raise ExportError("there is nothing to export: the journal is empty")
    return edits


def _site_factors(site: EditSite, edits: Sequence[SiteEdit]) -> tuple[Tensor, Tensor]:
    """A (out × r) and B (r × in) with A·B = ΔW, r its numerical rank (at least 1)."""
    factored: list[tuple[Tensor, Tensor]] = []
    dense = torch.zeros(site.shape, dtype=torch.float64)
    for edit in edits:
        update, operator = edit.update, edit.operator
        assert isinstance(operator, Shift)
        if isinstance(update, LowRankFactors) and update.bound is None:
            factored.append(
                (update.a.cpu().double() * (operator.limit * update.scale), update.b.cpu().double())
            )
        else:
            dense += operator.delta(update).cpu().double()
    ranks = sum(a.shape[1] for a, _ in factored)
    if not factored or bool(dense.any()) or ranks >= min(site.shape):
        for a, b in factored:
            dense += a @ b
        u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    else:
        # QR of both sides first: the SVD is then of a matrix as small as the summed ranks, not of
        # out × in.
        qa, ra = torch.linalg.qr(torch.cat([a for a, _ in factored], dim=1))
        qb, rb = torch.linalg.qr(torch.cat([b for _, b in factored], dim=0).mT)
        u, s, vt = torch.linalg.svd(ra @ rb.mT, full_matrices=False)
        u, vt = qa @ u, vt @ qb.mT
    rank = max(1, int((s > s.max() * 1e-9).sum()))
    root = s[:rank].sqrt()
    return (u[:, :rank] * root).float(), (root[:, None] * vt[:rank]).float()
