"""What a checkpoint belongs to: JSON values, all of which are the same where it is gone on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TRAINING = "training.pt"  # of an interrupted training, in the agent's folder
CHECKPOINT = "checkpoint.pt"  # of an interrupted edit of a stream


class _Absent:
    def __repr__(self) -> str:
        return "absent"


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
