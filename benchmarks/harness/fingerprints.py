"""What a row was measured on: fingerprints of the model, of the data, and of files.

Models have a fingerprint of their own, the journal's `base_hash`. Data are fingerprinted as they
are evaluated, so that it is the same wherever they lie: all splits of a world's task, or the
requests of a stream with every question. The text is what a stream's model is read with. Files are
those that the environment's arguments name.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks.results import texts_in
from editgym.envs.protocol import OpenEnv, StreamEnv, Unsupported, open_env, stream_env
from editgym.models.folders import gguf_file
from editgym.paths import data_folder
from editgym.weights import EditJournal

# Tasks are shared by cells, and their splits may be large: those of the latest task, by which cells
# of one network follow each other, are read once.
_latest: list[tuple[weakref.ref[Any], str]] = []


def fingerprints(
    env: gym.Env, env_kwargs: Mapping[str, Any], journal: EditJournal
) -> dict[str, Any]:
    """SHA-256 (hexadecimal) of the `model`, the `data`, the `text` and the `files` of an episode.

    Args:
        env: The environment, after the reset that began the episode.
        env_kwargs: The arguments that it was made with.
        journal: A journal of the episode.
    """
    return {
        "model": journal.base_hash,
        "data": _data(env),
        "text": text_hash(env),
        "files": {
            name: digest for name in texts_in(env_kwargs) if (digest := _file(name)) is not None
        },
    }


def content_hash(value: Any) -> str:
    """SHA-256 (hexadecimal) of tensors, arrays, dataclasses, texts, numbers, and what is made of
    them; of anything else the name of its type is all that counts.
    """
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _data(env: gym.Env) -> str | None:
    """The fingerprint of the data; None of an environment that shows none."""
    try:
        stream: StreamEnv = stream_env(env)
        return content_hash(stream.process.stream.requests)
    except (Unsupported, AttributeError):
        pass
    try:
        inner: OpenEnv = open_env(env)
        task: Any = inner.task
        splits = task.splits
    except (Unsupported, AttributeError):
        return None
    for known, digest in _latest:
        if known() is task:
            return digest
    found = content_hash(splits)
    with suppress(TypeError):  # a class with slots has no weak references
        _latest[:] = [(weakref.ref(task), found)]
    return found


def text_hash(env: gym.Env) -> str | None:
    """The hash of the plain text that a stream's model is read with; None where there is none."""
    try:
        found: str = stream_env(env).task.text.hash
    except (Unsupported, AttributeError):
        return None
    return found


def _file(name: str) -> str | None:
    """The hash of the file that a text among the arguments names, from the current folder or in the
    data folder, or of a GGUF file where a model's name finds it; None where it names none.
    """
    try:
        own = Path(os.path.expanduser(name)).absolute()
        path = gguf_file(name) or (
            own if own.is_file() else data_folder() / os.path.expanduser(name)
        )
        return file_hash(path) if path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # no name of a file, a home that nobody has
        return None


def file_hash(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file; it is read once, as long as nobody writes to it.

    Raises:
        OSError: It cannot be read.
    """
    state = path.stat()
    return _file_hash(str(path), state.st_mtime_ns, state.st_ctime_ns, state.st_size)


@functools.lru_cache(maxsize=1024)
def _file_hash(path: str, _written: int, _changed: int, _size: int) -> str:
    """The hash of a file in one state: when it was written and changed, and how long it is."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Add `value` to the digest, each part behind its kind and length, so that no two contents are
    the same bytes.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        value = value.view(torch.uint8).numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        value = value.tolist()  # its bytes are addresses, which no two processes share
    if isinstance(value, np.ndarray):
        digest.update(f"array {value.dtype.str} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).data if value.size else b"")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        _update(digest, {name: getattr(value, name) for name in names})
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        for key, entry in value.items():
            _update(digest, key)
            _update(digest, entry)
    elif isinstance(value, set | frozenset):
        _update(digest, sorted(value, key=repr))
    elif isinstance(value, list | tuple):
        digest.update(f"sequence {len(value)} ".encode())
        for entry in value:
            _update(digest, entry)
    elif isinstance(value, str | bytes | int | float | bool | Path | None):
        text = repr(value).encode()
        digest.update(f"{type(value).__name__} {len(text)} ".encode() + text)
    else:
        digest.update(f"a {type(value).__qualname__} ".encode())
