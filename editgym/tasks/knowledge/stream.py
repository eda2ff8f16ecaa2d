"""A stream: the requests of one episode, in the order in which they are edited."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from editgym.data.edit_request import EditRequest

StreamSplit = Literal["policy", "validation", "test"]
SPLITS: tuple[StreamSplit, ...] = ("policy", "validation", "test")

_DRAWS = 1_000  # of an order


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

    def overwritten_by(self, place: int, count: int | None = None) -> int | None:
        """The place of the next request that edits the same prompt: from its step on the one at
        `place` does not hold any more. None where there is none.

        Args:
            place: A place in the stream, from 0.
            count: Looks at the first so many requests alone; None for all.
        """
        later = self.overwritten.get(place)
        return None if later is None or (count is not None and later >= count) else later

    @cached_property
    def overwritten(self) -> Mapping[int, int]:
        """The place of the next request with the same prompt, by the place of every request that
        has one.
        """
        latest: dict[str, int] = {}
        found: dict[int, int] = {}
        for place, request in enumerate(self.requests):
            if request.prompt in latest:
                found[latest[request.prompt]] = place
            latest[request.prompt] = place
        return found

    @property
    def holding(self) -> tuple[EditRequest, ...]:
        """The requests that no later one overwrites: what should hold at the end."""
        return tuple(r for place, r in enumerate(self.requests) if place not in self.overwritten)

    def in_order(self, rng: random.Random, edits_per_step: int) -> Stream:
        """The same requests in another order, in which those that edit the same prompt still follow
        one another, in different steps.

        Args:
            rng: Draws the order.
            edits_per_step: Requests in a step.

        Raises:
            ValueError: So many edit the same prompt that drawing finds no such order.
        """
        own: dict[str, list[EditRequest]] = defaultdict(list)
        for request in self.requests:
            own[request.prompt].append(request)
        shuffled = list(self.requests)
        for _ in range(_DRAWS):
            rng.shuffle(shuffled)
            if not _has_one_prompt_twice_in_a_step(shuffled, edits_per_step):
                break
        else:
            raise ValueError(
                f"order: of {_DRAWS} orders that were drawn each has a step that edits one prompt"
                " twice: give order=0"
            )
        left = {prompt: iter(requests) for prompt, requests in own.items()}
        return replace(self, requests=tuple(next(left[r.prompt]) for r in shuffled))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over what is edited, in its order."""
        asked = json.dumps(
            [(request.subject, request.prompt, request.target) for request in self.requests]
        )
        return hashlib.sha256(asked.encode()).hexdigest()


def _has_one_prompt_twice_in_a_step(requests: Sequence[EditRequest], edits_per_step: int) -> bool:
    steps = {(place // edits_per_step, one.prompt) for place, one in enumerate(requests)}
    return len(steps) < len(requests)
