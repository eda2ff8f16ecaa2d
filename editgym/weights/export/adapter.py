"""Take edits out of editgym as a PEFT LoRA adapter."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from editgym.weights.export.merged import ExportError
from editgym.weights.factors import LowRankFactors
from editgym.weights.journal.journal import Adapter, SiteEdit, Skip
from editgym.weights.operators import Shift
from editgym.weights.overlay import EditedWeights
from editgym.weights.sites import EditSite
from editgym.weights.stored import plain_copy

_ADAPTER = "adapter_model.safetensors"


def export_adapter(
    network: EditedWeights, folder: str | os.PathLike[str], inside: str | None = None
) -> Path:
    """Write the network's journal as a PEFT LoRA adapter (`peft.PeftModel.from_pretrained(model,
    folder)`).

    Additive edits are LoRA: a site's edits add up to one ΔW, refactored to its numerical rank,
    which is at most min(out, in). `alpha_pattern` equals `rank_pattern`, so PEFT's scaling alpha/r
    is 1. Of a causal language model the adapter names task and base, so that
    `AutoPeftModelForCausalLM` loads it by itself. What was written is loaded into a copy of the
    base, on its device, and has to give the edited network's logits on a few inputs.

    Args:
        network: The network.
        folder: Made if need be.
        inside: What the names of the module begin with that the adapter is for, such as `model.`;
            the adapter names its modules without this. Empty for the network itself; None for what
            the network says (`wraps`), which is the classifier where it is one of `transformers`
            with two outputs made of its own.

    Raises:
        ExportError: The journal is empty, holds edits that are not additive (masks, replaced
            tensors), or edits a convolution with groups, whose weight is no LoRA product in PEFT;
            or PEFT makes another network of the adapter, as where it renames modules, whether the
            adapter names modules or their weights. Nothing is written then.
        ImportError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('an adapter needs PEFT: pip install "editgym[llm]"') from error
    folder = Path(folder)
    inside = getattr(network.base, "wraps", "") if inside is None else inside
    plain = network.base.get_submodule(inside.removesuffix("."))
    factors = {
        _name_inside(site.name, inside): (site, *_site_factors(site, edits))
        for site, edits in _shifts_by_site(network).items()
    }
    tensors: dict[str, Tensor] = {}
    for name, (site, a, b) in factors.items():
        if site.kind == "conv2d":
            a, b = a[:, :, None, None], b.reshape(-1, *site.stored_shape[1:])
        tensors[f"base_model.model.{name}.lora_A.weight"] = b.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = a.contiguous()
    ranks = {name: a.shape[1] for name, (_, a, _) in factors.items()}
    common: dict[str, Any] = {
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "fan_in_fan_out": all(site.kind == "conv1d" for site, _, _ in factors.values()),
        "task_type": "CAUSAL_LM" if _is_causal(plain) else None,
        "base_model_name_or_path": getattr(plain, "name_or_path", None) or None,
    }
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    with tempfile.TemporaryDirectory(prefix=".adapter-", dir=there) as partial:
        save_file(tensors, Path(partial) / _ADAPTER, metadata={"format": "pt"})
        reasons = []
        for targets in (_as_modules(ranks), _as_parameters(ranks)):
            LoraConfig(**common, **targets).save_pretrained(partial)
            if (reason := _difference(network, partial, factors, inside)) is None:
                break
            reasons.append(reason)
        else:
            raise ExportError(f"{reasons[0]}; export the merged weights instead")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(partial).iterdir(), reverse=True):  # the configuration comes last
            os.replace(file, folder / file.name)
    return folder


def _name_inside(site: str, inside: str) -> str:
    """A site's name in the module that an adapter is for."""
    if not site.startswith(inside):
        raise ExportError(
            f"{site} was edited, and the adapter is for what is inside {inside!r}; export the"
            " merged weights instead"
        )
    return site.removeprefix(inside)


def _as_modules(ranks: Mapping[str, int]) -> dict[str, Any]:
    """What an adapter's configuration says of modules and the ranks of their updates."""
    patterns = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}
    return {
        "target_modules": "|".join(re.escape(name) for name in ranks),
        "rank_pattern": patterns,
        "alpha_pattern": dict(patterns),
    }


def _as_parameters(ranks: Mapping[str, int]) -> dict[str, Any]:
    """The same, where the modules' weights are named and not the modules: of mixtures of experts
    PEFT takes any `down_proj` for one of the experts', also that of a shared expert (its pull
    request 3232).
    """
    most = max(ranks.values())
    patterns = {  # of a weight's pattern PEFT says in vain that it matches no module
        f"^{re.escape(name)}\\.weight": rank for name, rank in ranks.items() if rank < most
    }
    return {
        "target_modules": [],
        "target_parameters": [f"{name}.weight" for name in ranks],
        "rank_pattern": patterns,
        "alpha_pattern": dict(patterns),
    }


def _is_causal(model: nn.Module) -> bool:
    """Whether a model is a causal language model of `transformers`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


@torch.no_grad()
def _difference(
    network: EditedWeights,
    folder: str,
    factors: Mapping[str, tuple[EditSite, Tensor, Tensor]],
    inside: str,
) -> str | None:
    """Why PEFT does not make the edited network of an adapter; None where it loads every update,
    and no other, and the logits of what it makes are the network's.
    """
    from peft import PeftModel

    whole = plain_copy(network.base)
    place = inside.removesuffix(".")
    base = whole.get_submodule(place)
    kind = type(base).__name__
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that it does not find, as said below
            adapted: Any = PeftModel.from_pretrained(base, folder).eval()
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        return f"PEFT cannot load the adapter into {kind}: {error}"
    held = {
        name: (one.lora_A["default"].weight.flatten(1), one.lora_B["default"].weight.flatten(1))
        for name, one in adapted.base_model.model.named_modules()
        if len(getattr(one, "lora_B", ()))
    }
    for name, (_, a, b) in factors.items():
        own = held.pop(name, None)
        if own is None or not (torch.equal(own[0].cpu(), b) and torch.equal(own[1].cpu(), a)):
            return f"PEFT does not load the update of {name} into {kind}"
    if held:
        return f"PEFT puts an update into {next(iter(held))} of {kind}, which was not edited"
    if place:
        whole.set_submodule(place, adapted)
    try:
        wanted, found = network.probe(), network.probe(whole if place else adapted)
    except RuntimeError as error:
        return f"{kind} cannot be run with the adapter that PEFT makes: {error}"
    difference = float((found - wanted).abs().max())
    half = next(network.base.parameters()).dtype in (torch.float16, torch.bfloat16)
    size = max(1.0, float(wanted.abs().max()))
    # A small edit is to be there too: of its own effect a tenth may be lost, or what rounds away.
    effect = float((network.fresh().probe() - wanted).abs().max())
    most, rounding = (0.1, 2e-2) if half else (1e-3, 1e-5)
    if difference <= min(most * size, max(0.1 * effect, rounding * size)):
        return None
    return (
        f"PEFT makes another network of the adapter: logits of {kind} differ by {difference:.3g}"
        " from the edited ones"
    )


def _shifts_by_site(network: EditedWeights) -> dict[EditSite, list[SiteEdit]]:
    by_name = {site.name: site for site in network.sites}
    edits: dict[EditSite, list[SiteEdit]] = defaultdict(list)
    for i, entry in enumerate(network.journal):
        if isinstance(entry, Skip):
            continue
        if isinstance(entry, Adapter):
            raise ExportError(
                f"entry {i} is a {entry.kind}: an adapter beside the weights, which neither a LoRA"
                " adapter nor a checkpoint of weights can hold"
            )
        if not (isinstance(entry, SiteEdit) and isinstance(entry.operator, Shift)):
            raise ExportError(
                f"entry {i} is a {entry.kind}: only additive edits (low_rank_shift, dense_shift)"
                " are a LoRA adapter; export the merged weights instead"
            )
        if by_name[entry.site].kind == "in_proj":
            raise ExportError(
                f"{entry.site}, the input projections of attention, is no module that PEFT's LoRA"
                " can name; export the merged weights instead"
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
