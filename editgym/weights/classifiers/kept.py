"""Rows of tensors that are dear to compute, kept on disk by what they were computed from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from editgym.paths import whole_file

Compute = Callable[[Tensor], tuple[Tensor, ...]]
Lengths = Callable[[Tensor], Tensor]

_HASH_BYTES = 16
_TOGETHER = 128  # rows that are computed as one batch
_PER_FILE = 4_096  # rows; what is interrupted loses no more
_COMPARED = 8  # rows of a file from disk that are computed again
_ALIKE = 1e-3  # relative; kept rows that differ by more were computed by other code


@dataclass(frozen=True)
class Keep:
    """Where the activations of a network are kept, and how its inputs may be shortened.

    Attributes:
        folder: Every network has a folder of its own in it.
        lengths: Inputs (n, length, ...) -> how many of the first columns of each count, (n,); what
            comes after them is padding, which changes nothing. None where inputs have no padding.
    """

    folder: Path
    lengths: Lengths | None = None


class KeptRows:
    """`compute`, which computes each row once: after that it is read, here or from disk.

    Rows stand for themselves, so data that are divided or joined otherwise need no new ones.
    Several processes may use one folder: each adds files of its own, named by the hash of what is
    in them. Of every file that another process wrote, some rows that are asked for are computed
    again, and a folder that other code has filled is emptied.

    Args:
        folder: Where rows are kept; what is in it was computed by the same function.
        compute: Inputs (n, ...) -> tensors (n, ...), row by row.
        lengths: How many of the first columns of each input count, as `Keep` says.
    """

    def __init__(self, folder: Path, compute: Compute, lengths: Lengths | None = None) -> None:
        self._folder, self._compute, self._lengths = folder, compute, lengths
        self._read: set[Path] = set()
        self._places: dict[bytes, int] = {}
        self._parts: list[list[Tensor]] = []  # columns, as they were taken
        # By files that others wrote: their rows, and how many of these are still to be compared.
        self._unchecked: dict[Path, tuple[set[bytes], int]] = {}

    def __call__(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What `compute` makes of inputs, on their device.

        Raises:
            ValueError: The folder cannot be written to.
        """
        keys = _keys(inputs)
        if not keys and not self._parts:
            return self._compute(inputs)
        if any(key not in self._places for key in keys):
            self._read_files()
        self._check(inputs, keys)
        missing = {key: row for row, key in enumerate(keys) if key not in self._places}
        if missing:
            try:
                self._add(inputs, missing)
            except (OSError, SafetensorError) as error:
                raise ValueError(
                    f"EDITGYM_CACHE: cannot keep features in {self._folder}: {error}"
                ) from error
        places = torch.tensor([self._places[key] for key in keys], dtype=torch.long)
        return tuple(column[places].to(inputs.device) for column in self._columns)

    def _check(self, inputs: Tensor, keys: list[bytes]) -> None:
        """Delete what was kept if other code has computed it."""
        asked = {key: row for row, key in enumerate(keys)}
        compared: list[bytes] = []
        for path, (rows, due) in list(self._unchecked.items()):
            known = sorted(rows & asked.keys(), key=asked.__getitem__)
            some = (
                known if len(known) <= due else [known[i * len(known) // due] for i in range(due)]
            )
            compared += some
            self._unchecked[path] = (rows.difference(some), due - len(some))
            if due == len(some) or len(rows) == len(some):
                del self._unchecked[path]
        if not compared:
            return
        found = self._compute(inputs[torch.tensor([asked[key] for key in compared])])
        places = torch.tensor([self._places[key] for key in compared])
        kept = [column[places] for column in self._columns]
        if len(found) == len(kept) and all(map(_alike, kept, found)):
            return
        for file in self._read:
            file.unlink(missing_ok=True)
        self._places, self._parts, self._unchecked = {}, [], {}

    def _add(self, inputs: Tensor, missing: dict[bytes, int]) -> None:
        keys, rows = list(missing), torch.tensor(list(missing.values()))
        lengths = None if self._lengths is None else self._lengths(inputs[rows]).cpu()
        order = torch.arange(len(rows)) if lengths is None else lengths.argsort(stable=True)
        with tqdm(total=len(rows), desc="features", leave=False, mininterval=0.5) as bar:
            for part in order.split(_PER_FILE):
                found = []
                for some in part.split(_TOGETHER):
                    own = inputs[rows[some]]
                    found.append(
                        self._compute(
                            own if lengths is None else own[:, : int(lengths[some].max())]
                        )
                    )
                    bar.update(len(some))
                columns = [torch.cat(column).cpu() for column in zip(*found, strict=True)]
                self._write([keys[place] for place in part.tolist()], columns)

    def _write(self, keys: list[bytes], columns: list[Tensor]) -> None:
        path = self._folder / f"{_name(keys, columns)}.safetensors"
        hashes = torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).copy())
        tensors = {f"{i}": column.contiguous() for i, column in enumerate(columns)}
        with whole_file(path) as partial:
            save_file({"keys": hashes.view(-1, _HASH_BYTES), **tensors}, partial)
        self._read.add(path)
        self._take(keys, columns)

    def _read_files(self) -> None:
        for path in sorted(set(self._folder.glob("*.safetensors")) - self._read):
            try:
                tensors = load_file(path)
            except (SafetensorError, FileNotFoundError):
                continue  # it is no longer there, or nobody wrote it: its rows are computed again
            keys = [row.tobytes() for row in tensors.pop("keys").numpy()] if tensors else []
            columns = [tensors[name] for name in sorted(tensors, key=int)]
            if path.stem != _name(keys, columns):
                continue  # it was changed after it was written
            self._read.add(path)
            self._unchecked[path] = (set(keys), _COMPARED)
            self._take(keys, columns)

    def _take(self, keys: list[bytes], columns: list[Tensor]) -> None:
        if not columns:
            return  # a file without rows
        before = sum(len(part[0]) for part in self._parts)
        self._places |= {key: before + place for place, key in enumerate(keys)}
        self._parts.append(columns)

    @property
    def _columns(self) -> list[Tensor]:
        """All rows, by column; they are joined once, however many files they came from."""
        if len(self._parts) > 1:
            self._parts = [[torch.cat(parts) for parts in zip(*self._parts, strict=True)]]
        return self._parts[0] if self._parts else []


def _keys(inputs: Tensor) -> list[bytes]:
    """A hash of every row."""
    rows = inputs.detach().cpu().contiguous().flatten(1).view(torch.uint8).numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=_HASH_BYTES).digest() for row in rows]


def _name(keys: list[bytes], columns: list[Tensor]) -> str:
    """The name of a file with these rows: a hash of all that it holds."""
    digest = hashlib.sha256(b"".join(keys))
    for column in columns:
        digest.update(f"{column.dtype} {tuple(column.shape)} ".encode())
        digest.update(column.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _alike(kept: Tensor, found: Tensor) -> bool:
    own = found.cpu()
    if kept.shape != own.shape or kept.dtype != own.dtype:
        return False
    if not kept.numel():
        return True
    difference, scale = (
        one.abs().reshape(len(kept), -1).amax(1) for one in (kept.double() - own, own.double())
    )
    return bool((difference <= _ALIKE * scale.clamp_min(1.0)).all())
