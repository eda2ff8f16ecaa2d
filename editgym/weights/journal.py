"""The ordered list of edits made to a network: undo, rollback, replay, and a file that is safe to
load.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from editgym.weights.factors import DenseUpdate, LowRankFactors, Update
from editgym.weights.operators import Mask, Operator, Shift

FORMAT = "editgym-journal-1"
EntryKind = Literal[
    "low_rank_shift",
    "low_rank_mask",
    "dense_shift",
    "dense_mask",
    "replace_tensors",
    "codebook",
    "prepend",
]


class JournalError(ValueError):
    """A journal file that cannot be read, or that belongs to another network."""


@dataclass(frozen=True)
class SiteEdit:
    """One edit of one site: `operator` applied with `update`.

    Attributes:
        site: Name of the site.
        operator: `Mask` or `Shift`.
        update: Factors or a dense matrix, of one network (no candidate dimension).
        step: Environment step, or position in an edit stream, that the edit belongs to; None lets
            the journal number it, one more than the last.
    """

    site: str
    operator: Operator
    update: Update
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`low_rank_shift`, `low_rank_mask`, `dense_shift` or `dense_mask`."""
        if isinstance(self.update, LowRankFactors):
            return "low_rank_shift" if isinstance(self.operator, Shift) else "low_rank_mask"
        return "dense_shift" if isinstance(self.operator, Shift) else "dense_mask"


@dataclass(frozen=True)
class ReplaceTensors:
    """Whole tensors put in place of the network's own, by state-dict name: any parameter or
    buffer.
    """

    tensors: Mapping[str, Tensor]
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`replace_tensors`."""
        return "replace_tensors"


@dataclass(frozen=True)
class Codebook:
    """Not an edit of weights but an adapter beside them: inputs of a site near a key get the key's
    output.

    Attributes:
        site: Name of the site.
        keys: (n, in).
        values: (n, out), what the module gives out instead.
        radii: (n,), Euclidean distance up to which a key holds.
        step: As in `SiteEdit`.
    """

    site: str
    keys: Tensor
    values: Tensor
    radii: Tensor
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`codebook`."""
        return "codebook"


@dataclass(frozen=True)
class Prepend:
    """Not an edit of weights but text before every prompt of a request, in the order of the step's
    requests.
    """

    texts: tuple[str, ...]
    step: int | None = None

    @property
    def kind(self) -> EntryKind:
        """`prepend`."""
        return "prepend"


Entry = SiteEdit | ReplaceTensors | Codebook | Prepend


@dataclass
class EditJournal:
    """Edits in the order they were applied, and the base network that they belong to.

    Attributes:
        base_hash: Fingerprint of the base network (`editgym.weights.network.fingerprint`).
        entries: The edits; entries of one `step` are undone together.
    """

    base_hash: str
    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        given, self.entries = self.entries, []
        for entry in given:
            self.append(entry)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def steps(self) -> int:
        """Number of different steps in the journal."""
        return len({entry.step for entry in self.entries})

    def append(self, *entries: Entry) -> None:
        """Add entries at the end; those without a step are together the step after the last.

        Raises:
            ValueError: A step is negative or below the one before it; nothing has changed then.
        """
        last = _step(self.entries[-1]) if self.entries else -1
        numbered = [
            replace(entry, step=last + 1) if entry.step is None else entry for entry in entries
        ]
        for before, step in pairwise([max(last, 0), *map(_step, numbered)]):
            if step < before:
                raise ValueError(
                    f"steps begin at 0 and never go back, got step {step} after step {before}"
                )
        self.entries.extend(numbered)

    def undo(self) -> list[Entry]:
        """Remove and return the entries of the last step: those at the end that have the same
        number.

        Raises:
            IndexError: The journal is empty.
        """
        if not self.entries:
            raise IndexError("nothing to undo: the journal is empty")
        last, kept = self.entries[-1].step, len(self.entries)
        while kept and self.entries[kept - 1].step == last:
            kept -= 1
        self.entries, undone = self.entries[:kept], self.entries[kept:]
        return undone

    def rollback(self, step: int) -> list[Entry]:
        """Keep the entries before `step` (so `rollback(0)` removes all) and return the removed
        ones.

        Raises:
            ValueError: `step` is negative.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        removed = [entry for entry in self.entries if _step(entry) >= step]
        self.entries = [entry for entry in self.entries if _step(entry) < step]
        return removed

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the journal as safetensors, completely or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        described = [_describe(i, entry, tensors) for i, entry in enumerate(self.entries)]
        # One key: safetensors writes several in random order, and equal journals should be equal
        # files.
        content = {"format": FORMAT, "base_hash": self.base_hash, "entries": described}
        metadata = {"editgym": json.dumps(content, sort_keys=True)}
        partial = path.with_name(f"{path.name}.partial")
        try:
            save_file(_apart(tensors), partial, metadata=metadata)
        except SafetensorError as error:  # it is no OSError, and names the partial file
            raise OSError(f"cannot write {path}: {error}") from error
        os.replace(partial, path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> EditJournal:
        """Read a journal that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            JournalError: The file is truncated, is not safetensors, or is not a journal of this
                format.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no journal at {path}")
        try:
            with safe_open(str(path), framework="pt", device=str(device)) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise JournalError(
                f"{path} is damaged or is not a safetensors file: {error}"
            ) from error
        try:
            content = json.loads(metadata["editgym"])
        except (KeyError, json.JSONDecodeError) as error:
            raise JournalError(
                f"{path} is a safetensors file, but not an editgym journal"
            ) from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise JournalError(f"{path} has the journal format {found!r}, expected {FORMAT!r}")
        try:
            entries = [_restore(i, row, tensors) for i, row in enumerate(content["entries"])]
            return cls(content["base_hash"], entries)
        except (KeyError, TypeError, ValueError) as error:
            raise JournalError(
                f"{path} is not a complete editgym journal: {type(error).__name__} {error}"
            ) from error


def _step(entry: Entry) -> int:
    assert entry.step is not None, "the journal numbers its entries"
    return entry.step


def _describe(index: int, entry: Entry, tensors: dict[str, Tensor]) -> dict[str, object]:
    """The entry's JSON description; its tensors go into `tensors` under names that start with
    `index`.
    """
    row: dict[str, object] = {"kind": entry.kind, "step": entry.step}
    if isinstance(entry, ReplaceTensors):
        named: Mapping[str, Tensor] = entry.tensors
        row["names"] = list(named)
    elif isinstance(entry, Prepend):
        named, row["texts"] = {}, list(entry.texts)
    elif isinstance(entry, Codebook):
        named, row["site"] = (
            {
                "keys": entry.keys,
                "values": entry.values,
                "radii": entry.radii,
            },
            entry.site,
        )
    else:
        update = entry.update
        row |= {"site": entry.site, "bound": update.bound}
        if isinstance(entry.operator, Shift):
            row["limit"] = entry.operator.limit
        if isinstance(update, LowRankFactors):
            row["scale"] = update.scale
            named = {"a": update.a, "b": update.b}
        else:
            named = {"d": update.d}
    tensors.update(
        (f"{index}.{name}", tensor.detach().cpu().contiguous()) for name, tensor in named.items()
    )
    return row


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


def _restore(index: int, row: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Entry:
    kind, step = row["kind"], int(row["step"])  # type: ignore[call-overload]
    if kind == "replace_tensors":
        return ReplaceTensors({name: tensors[f"{index}.{name}"] for name in row["names"]}, step)  # type: ignore[attr-defined]
    if kind == "prepend":
        return Prepend(tuple(row["texts"]), step)  # type: ignore[arg-type]
    if kind == "codebook":
        keys, values, radii = (tensors[f"{index}.{name}"] for name in ("keys", "values", "radii"))
        return Codebook(str(row["site"]), keys, values, radii, step)
    if kind not in ("low_rank_shift", "low_rank_mask", "dense_shift", "dense_mask"):
        raise JournalError(f"entry {index} has the unknown kind {kind!r}")
    bound: float | None = row["bound"]  # type: ignore[assignment]
    operator: Operator = Shift(float(row["limit"])) if kind.endswith("shift") else Mask()  # type: ignore[arg-type]
    update: Update
    if kind.startswith("low_rank"):
        update = LowRankFactors(
            tensors[f"{index}.a"],
            tensors[f"{index}.b"],
            float(row["scale"]),  # type: ignore[arg-type]
            bound,
        )
    else:
        update = DenseUpdate(tensors[f"{index}.d"], bound)
    return SiteEdit(str(row["site"]), operator, update, step)
