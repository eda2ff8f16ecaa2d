"""The batch of requests that a stream is at, and what the model makes of it before the edit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from editgym.data.facts import EditRequest
from editgym.tasks.knowledge import KnowledgeTask
from editgym.weights import EditableDecoder, LowRankFactors, TokenBatch
from editgym.weights.closed_form import UltraEdit, principal_directions
from editgym.weights.layers import Prefix
from editgym.weights.site_pass import Capture

Basis = Literal["ultraedit", "gradient"]


class Batch:
    """One step's requests; everything about them is computed once, when somebody first asks.

    A step that is made ends its batch: the stream then opens a new one.

    Args:
        requests: The new requests.
        task: Model and tokens.
        decoder: The model with the edits so far.
        statistics: UltraEdit's running statistics, one per site; `directions` adds to them.
        basis: Which update `directions` takes apart.

    Attributes:
        requests: The new requests.
        before: The state of every site's statistics before anybody looked at the batch.
    """

    def __init__(
        self,
        requests: tuple[EditRequest, ...],
        task: KnowledgeTask,
        decoder: EditableDecoder,
        statistics: Sequence[UltraEdit],
        basis: Basis,
    ) -> None:
        self.requests = requests
        self.before: list[dict[str, Any]] = [one.state_dict() for one in statistics]
        self._task = task
        self._decoder = decoder
        self._statistics = statistics
        self._basis = basis

    @cached_property
    def prompts(self) -> TokenBatch:
        """The requests' prompts and targets as tokens."""
        return self._task.batch([(request.prompt, request.target) for request in self.requests])

    @cached_property
    def prefix(self) -> Prefix | None:
        """What no edit changes about `prompts` (`EditableDecoder.prefix`)."""
        return self._decoder.prefix(self.prompts)

    @cached_property
    def capture(self) -> Capture:
        """Keys, output gradients and loss of the requests' prompts and targets."""
        return self._decoder.capture(self.prompts, self.prefix)

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """`capture` as it would be with one more update per site, which is not applied."""
        kept = [LowRankFactors(u.a.detach(), u.b.detach(), u.scale, u.bound) for u in updates]
        return self._decoder.capture(self.prompts, self.prefix, kept)

    @cached_property
    def directions(self) -> list[LowRankFactors]:
        """Per site the training-free update by its singular directions, largest first.

        Raises:
            FloatingPointError: Keys or gradients are not finite; the running statistics are without
                them then.
        """
        captured = zip(self.capture.keys, self.capture.gradients, strict=True)
        step_size = self._task.step_size
        if self._basis == "gradient":
            updates = [LowRankFactors(-step_size * g.mT, keys) for keys, g in captured]
        else:
            updates = [
                editor.update(keys, gradients, step_size)
                for editor, (keys, gradients) in zip(self._statistics, captured, strict=True)
            ]
        try:
            return [principal_directions(update) for update in updates]
        except FloatingPointError:
            for editor, own in zip(self._statistics, self.before, strict=True):
                editor.load_state_dict(own)
            raise

    @torch.no_grad()
    def graded(self) -> tuple[Tensor, dict[str, float]]:
        """What the prompts come to with the edits now in effect.

        Returns:
            Which prompts are answered exactly, (requests,) bool; `reliability` and `tf_efficacy`.
        """
        prompts = self.prompts
        right = self._decoder.logits(prompts, prefix=self.prefix).argmax(-1) == prompts.labels
        answered = prompts.all_of(right)
        content = self._task.content(prompts)
        return answered, {
            "reliability": float(answered.float().mean()),
            "tf_efficacy": float(prompts.means(right.float(), content).mean()),
        }
