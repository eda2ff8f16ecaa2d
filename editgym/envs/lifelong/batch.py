"""The batch of requests that a stream is at, and what the model makes of it before the edit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from editgym.data.facts import EditRequest
from editgym.tasks.knowledge.task import KnowledgeTask, Stream
from editgym.weights import EditableDecoder, LowRankFactors, TokenBatch
from editgym.weights.closed_form import UltraEdit, principal_directions
from editgym.weights.language.capture import Capture
from editgym.weights.language.layers import Prefix

Basis = Literal["ultraedit", "gradient"]


class Batch:
    """One step's requests; everything about them is computed once, when somebody first asks.

    An edit is taught by the new requests and by earlier ones that are rehearsed; what a step came
    to is told of the new ones alone. A step that is made ends its batch: the stream then opens a
    new one.

    Args:
        stream: The requests of the episode.
        new: Places of the new requests in the stream.
        rehearsed: Places of the earlier requests that are rehearsed.
        task: Model and tokens.
        decoder: The model with the edits so far.
        statistics: UltraEdit's running statistics, one per site; `directions` adds the new requests
            to them.
        basis: Which update `directions` takes apart.

    Attributes:
        requests: The new requests.
        rehearsed: The earlier ones: of each its subject, prompt and target, and nothing else.
        places: Where the requests of `taught` stand in the stream, from 0.
        overwrites: Where the earlier requests stand whose prompts the new ones edit again.
        before: The state of every site's statistics before anybody looked at the batch.
    """

    def __init__(
        self,
        stream: Stream,
        new: Sequence[int],
        rehearsed: Sequence[int],
        task: KnowledgeTask,
        decoder: EditableDecoder,
        statistics: Sequence[UltraEdit],
        basis: Basis,
    ) -> None:
        self.requests = tuple(stream.requests[place] for place in new)
        earlier = (stream.requests[place] for place in rehearsed)
        self.rehearsed = tuple(EditRequest(r.subject, r.prompt, r.target) for r in earlier)
        self.places = (*new, *rehearsed)
        self.overwrites = tuple(at for at, later in stream.overwritten.items() if later in new)
        self.before: list[dict[str, Any]] = [one.state_dict() for one in statistics]
        self._task = task
        self._decoder = decoder
        self._statistics = statistics
        self._basis = basis

    @property
    def taught(self) -> tuple[EditRequest, ...]:
        """What the step's edit should make the model answer: the new requests, then the rehearsed
        ones.
        """
        return self.requests + self.rehearsed

    @cached_property
    def prompts(self) -> TokenBatch:
        """Prompts and targets of `taught` as tokens."""
        return self._tokens(self.taught)

    @cached_property
    def new_prompts(self) -> TokenBatch:
        """Prompts and targets of the new requests as tokens."""
        return self._tokens(self.requests) if self.rehearsed else self.prompts

    @cached_property
    def prefix(self) -> Prefix | None:
        """What no edit changes about `prompts` (`EditableDecoder.prefix`)."""
        return self._decoder.prefix(self.prompts)

    @cached_property
    def capture(self) -> Capture:
        """Keys, output gradients and loss of `prompts`; its `new` has those of the new requests.

        Gradients are of the sum of all losses over the number of new requests.
        """
        return self._captured(None)

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """`capture` as it would be with one more update per site, which is not applied."""
        kept = [LowRankFactors(u.a.detach(), u.b.detach(), u.scale, u.bound) for u in updates]
        return self._captured(kept)

    @cached_property
    def directions(self) -> list[LowRankFactors]:
        """Per site the training-free update by its singular directions, largest first.

        Raises:
            FloatingPointError: Keys or gradients are not finite; the running statistics are without
                them then.
        """
        new = self.capture.new
        try:
            if self._basis == "ultraedit":
                for editor, keys, gradients in zip(
                    self._statistics, new.keys, new.gradients, strict=True
                ):
                    editor.observe(keys, gradients)
            return self._directions(self.capture)
        except BaseException:  # nothing is counted twice when an interrupted step is made again
            for editor, own in zip(self._statistics, self.before, strict=True):
                editor.load_state_dict(own)
            raise

    @cached_property
    def new_directions(self) -> list[LowRankFactors]:
        """`directions` of the training-free update that the new requests alone would get.

        Raises:
            FloatingPointError: `directions` would raise it.
        """
        together = self.directions
        return self._directions(self.capture.new) if self.rehearsed else together

    def forget(self) -> None:
        """Let go of keys, gradients and updates: the step is made, and they were for it."""
        for name in ("capture", "directions", "new_directions"):
            self.__dict__.pop(name, None)

    @torch.no_grad()
    def graded(self) -> tuple[Tensor, dict[str, float]]:
        """What the new prompts come to with the edits now in effect.

        Returns:
            Which prompts are answered exactly, (requests,) bool; `reliability` and `tf_efficacy`.
        """
        prompts, prefix = self.new_prompts, self.prefix
        if prefix is not None and self.rehearsed:
            prefix = prefix.take(range(len(prompts)), prompts.ids.shape[1])
        right = self._decoder.logits(prompts, prefix=prefix).argmax(-1) == prompts.labels
        answered = prompts.all_of(right)
        content = self._task.content(prompts)
        return answered, {
            "reliability": float(answered.float().mean()),
            "tf_efficacy": float(prompts.means(right.float(), content).mean()),
        }

    # --- inside -----------------------------------------------------------------------------------

    def _tokens(self, requests: Sequence[EditRequest]) -> TokenBatch:
        return self._task.batch([(request.prompt, request.target) for request in requests])

    def _captured(self, updates: Sequence[LowRankFactors] | None) -> Capture:
        captured = self._decoder.capture(self.prompts, self.prefix, updates)
        return captured.rehearsing(len(self.requests)) if self.rehearsed else captured

    def _directions(self, capture: Capture) -> list[LowRankFactors]:
        """Per site the training-free update by its directions, by the statistics as they are."""
        captured = zip(capture.keys, capture.gradients, strict=True)
        step_size = self._task.step_size
        if self._basis == "gradient":
            updates = [LowRankFactors(-step_size * g.mT, keys) for keys, g in captured]
        else:
            updates = [
                editor.update(keys, gradients, step_size, observe=False)
                for editor, (keys, gradients) in zip(self._statistics, captured, strict=True)
            ]
        return [principal_directions(update) for update in updates]
