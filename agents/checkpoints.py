"""Files that are gone on from: how they are read, and what a checkpoint belongs to, JSON values
that are the same where it is gone on from.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from editgym.checks import shown

TRAINING = "training.pt"  # of an interrupted training, in the agent's folder
CHECKPOINT = "checkpoint.pt"  # of an interrupted edit of a stream


class _Absent:
    def __repr__(self) -> str:
        return "absent"


def read_object(file: Path, needed: Mapping[str, type], instead: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        file: The file.
        needed: What it must hold: names, and their values' types.
        instead: What to do where the file is damaged, for the message.

    Raises:
        ValueError: It holds something else; the message names the file.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is damaged, it holds no JSON ({error}): {instead}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged, it holds {shown(found)} and no object: {instead}")
    for name, kind in needed.items():
        if not isinstance(found.get(name), kind):
            what = f"{name}={shown(found[name])}" if name in found else f"no {name}"
            raise ValueError(f"{file} is damaged, it holds {what}: {instead}")
    return found


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
    import torch  # not above: who only compares checkpoints does not wait for it

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
        found = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{file} is damaged or is no {what}: {instead}") from error
    if not all(name in found for name in needed):
        raise ValueError(f"{file} is damaged or is no {what}: {instead}")
    return found


def canonical(identity: Mapping[str, Any]) -> dict[str, Any]:
    """`identity` as JSON gives it back; what JSON does not have (paths, devices) as text."""
    return dict(json.loads(json.dumps(identity, default=str)))


def first_difference(there: Any, here: Any, name: str = "") -> str | None:
    """Where two JSON values differ first, and how; None where they do not.

    Args:
        there: What the checkpoint has.
        here: What would go on from it.
        name: What the values are called, for the answer.
    """
    if isinstance(there, list) and isinstance(here, list):
        there, here = dict(enumerate(there)), dict(enumerate(here))
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return None if there == here else f"{name} is {there!r} there and {here!r} here"
    for key in {**here, **there}:
        values = there.get(key, _Absent()), here.get(key, _Absent())
        if found := first_difference(*values, f"{name}.{key}" if name else str(key)):
            return found
    return None
