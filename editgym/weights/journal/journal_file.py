"""The file of a journal: safetensors, with the entries' descriptions as JSON in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editgym.weights.factors import DenseUpdate, LowRankFactors, Update
from editgym.weights.journal.entries import (
    Codebook,
    Entry,
    Prepend,
    Remember,
    ReplaceTensors,
    SiteEdit,
    Skip,
)
from editgym.weights.operators import Mask, Operator, Shift
from editgym.weights.stored import tensors_hash
from editgym.weights.tensor_file import write_tensors

FORMAT = "editgym-journal-1"


class JournalError(ValueError):
    """A journal file that cannot be read, or that belongs to another network."""


def write(path: Path, base_hash: str, entries: Sequence[Entry]) -> Path:
    """Write the entries that belong to a base network, completely or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    described = [_describe(index, entry, tensors) for index, entry in enumerate(entries)]
    # One key: safetensors writes several in random order, and equal journals should be equal files.
    content = {"format": FORMAT, "base_hash": base_hash, "entries": described}
    return write_tensors(path, _apart(tensors), {"editgym": json.dumps(content, sort_keys=True)})


def read(path: Path, device: str | torch.device = "cpu") -> tuple[str, list[Entry]]:
    """The base network's hash and the entries of a file that `write` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        JournalError: The file is truncated, is not safetensors, or is not a journal of this format;
            the message names the entry.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no journal at {path}")
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise JournalError(f"{path} is damaged or is not a safetensors file: {error}") from error
    try:
        content = json.loads(metadata["editgym"])
    except (KeyError, ValueError, RecursionError) as error:
        raise JournalError(f"{path} is a safetensors file, but not an editgym journal") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise JournalError(f"{path} has the journal format {found!r}, expected {FORMAT!r}")
    base_hash, rows = content.get("base_hash"), content.get("entries")
    if not isinstance(base_hash, str) or not isinstance(rows, list):
        raise JournalError(
            f"{path} is not a complete editgym journal: base_hash must be a text and entries a"
            f" list, got {type(base_hash).__name__} and {type(rows).__name__}"
        )
    entries = []
    for index, row in enumerate(rows):
        try:
            entries.append(_restore(index, row, tensors))
        except JournalError:
            raise
        except Exception as error:  # its numbers and tensors may be of any kind and shape
            raise incomplete(path, error, f"entry {index}: ") from error
    return base_hash, entries


def content_hash(entries: Sequence[Entry]) -> str:
    """sha256 over what `write` would write of the entries: equal for equal edits, read or made."""
    tensors: dict[str, Tensor] = {}
    described = [_describe(index, entry, tensors) for index, entry in enumerate(entries)]
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256((text + tensors_hash(sorted(tensors.items()))).encode()).hexdigest()


def incomplete(path: Path, error: Exception, where: str = "") -> JournalError:
    """The error of a journal file in which something is missing or senseless."""
    said = f"lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__} {error}"
    return JournalError(f"{path} is not a complete editgym journal: {where}{said}")


def _describe(index: int, entry: Entry, tensors: dict[str, Tensor]) -> dict[str, object]:
    """The entry's JSON description; its tensors go into `tensors` under names that start with
    `index`.
    """
    own: dict[str, object] = {}
    named: Mapping[str, Tensor] = {}
    if isinstance(entry, ReplaceTensors):
        own, named = {"names": list(entry.tensors)}, entry.tensors
    elif isinstance(entry, Prepend):
        own = {"texts": list(entry.texts)}
    elif isinstance(entry, Remember):
        own = {"facts": [list(fact) for fact in entry.facts], "threshold": entry.threshold}
    elif isinstance(entry, Skip):
        own = {"request": entry.request, "reason": entry.reason}
    elif isinstance(entry, Codebook):
        own = {"site": entry.site}
        named = {"keys": entry.keys, "values": entry.values, "radii": entry.radii}
    else:
        own, named = _described_edit(entry)
    tensors.update(
        (f"{index}.{name}", tensor.detach().cpu().contiguous()) for name, tensor in named.items()
    )
    return {"kind": entry.kind, "step": entry.step, **own}


def _described_edit(edit: SiteEdit) -> tuple[dict[str, object], Mapping[str, Tensor]]:
    update = edit.update
    own: dict[str, object] = {"site": edit.site, "bound": update.bound}
    if isinstance(edit.operator, Shift):
        own["limit"] = edit.operator.limit
    if isinstance(update, DenseUpdate):
        return own, {"d": update.d}
    return {**own, "scale": update.scale}, {"a": update.a, "b": update.b}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each with a storage of its own, as safetensors wants them.

    Only those that share one are copied: a long journal on disk is mapped, not held.
    """
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in taken else tensor
        taken.add(place)
    return apart


def _restore(index: int, row: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Entry:
    kind, step = row["kind"], int(row["step"])
    if kind == "replace_tensors":
        return ReplaceTensors({name: tensors[f"{index}.{name}"] for name in row["names"]}, step)
    if kind == "prepend":
        return Prepend(tuple(row["texts"]), step)
    if kind == "remember":
        facts = tuple((prompt, answer) for prompt, answer in row["facts"])
        return Remember(facts, float(row["threshold"]), step)
    if kind == "skip":
        return Skip(row["request"], str(row["reason"]), step)
    if kind == "codebook":
        keys, values, radii = (tensors[f"{index}.{name}"] for name in ("keys", "values", "radii"))
        return Codebook(str(row["site"]), keys, values, radii, step)
    if kind not in ("low_rank_shift", "low_rank_mask", "dense_shift", "dense_mask"):
        raise JournalError(f"entry {index} has the unknown kind {kind!r}")
    operator: Operator = Shift(float(row["limit"])) if kind.endswith("shift") else Mask()
    bound = None if row["bound"] is None else float(row["bound"])
    update: Update
    if kind.startswith("low_rank"):
        a, b = (tensors[f"{index}.{name}"] for name in ("a", "b"))
        update = LowRankFactors(a, b, float(row["scale"]), bound)
    else:
        update = DenseUpdate(tensors[f"{index}.d"], bound)
    return SiteEdit(str(row["site"]), operator, update, step)
