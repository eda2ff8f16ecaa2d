"""A stream: the requests of one episode, in the order in which they are edited."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from editgym.data.edit_request import EditRequest

StreamSplit = Literal["policy", "validation", "test"]
SPLITS: tuple[StreamSplit, ...] = ("policy", "validation", "test")


@dataclass(frozen=True)
class Stream:
    """Requests in the order in which they are edited.

    Attributes:
        requests: Every one can be asked within the model's context, and none is answered as wanted
            already.
        skipped: How many requests were left out while drawing it, by reason.
    """

    requests: tuple[EditRequest, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over what is edited, in its order."""
        asked = json.dumps(
            [(request.subject, request.prompt, request.target) for request in self.requests]
        )
        return hashlib.sha256(asked.encode()).hexdigest()
