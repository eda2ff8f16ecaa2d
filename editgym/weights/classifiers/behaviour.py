"""What a network computes beside its tensors: the attributes and the code of its modules."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

# Packages whose versions say what their code is.
_KNOWN_BY_VERSION = ("torch", "transformers", "torchvision")
_DEEPEST = 6


def behaviour(model: nn.Module) -> str:
    """SHA-256 of what decides beside tensors how a network's modules compute: their attributes,
    whether or not `repr` shows them, and the files of their code.

    Args:
        model: A network; that it is in training mode or not counts.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        attributes = {
            key: value for key, value in vars(module).items() if not _is_bookkeeping(key, value)
        }
        kind = type(module)
        digest.update(repr((name, kind.__module__, kind.__qualname__)).encode())
        digest.update(repr(_described(attributes)).encode())
    for file in sorted({file for module in model.modules() if (file := _file(type(module)))}):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _is_bookkeeping(key: str, value: Any) -> bool:
    """Whether an attribute is where torch keeps parameters, submodules and hooks, or a tensor: each
    has a place of its own.
    """
    return key in _OF_TORCH or isinstance(value, Tensor | nn.Module)


_OF_TORCH = frozenset(vars(nn.Module())) - {"training"}


def _described(value: Any, depth: int = 0) -> Any:
    """A value in terms that are the same in every process: no addresses, no order of sets."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if depth == _DEEPEST:
        return type(value).__qualname__
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), tuple(value.shape), value.detach().cpu().tolist())
    if isinstance(value, Mapping):
        return [
            (_described(key, depth + 1), _described(one, depth + 1)) for key, one in value.items()
        ]
    if isinstance(value, list | tuple):
        return [_described(one, depth + 1) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_described(one, depth + 1)) for one in value)
    kind = (type(value).__module__, type(value).__qualname__)
    if hasattr(value, "__qualname__"):  # a class or a function
        return (value.__module__, value.__qualname__)
    held = getattr(value, "__dict__", None)
    return (kind, None if held is None else _described(held, depth + 1))


def _file(kind: type) -> str | None:
    """The file that a class is written in; None where its package's version says it, or where it is
    made at run time.
    """
    if kind.__module__.partition(".")[0] in _KNOWN_BY_VERSION:
        return None
    if kind.__module__ not in sys.modules:
        return None
    try:
        file = inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return None
    return file if file and Path(file).is_file() else None
