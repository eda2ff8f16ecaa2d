"""The decision process of LifelongLLMEdit in torch: a stream of batches, their updates, and what
they cost.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from editgym.data.facts import EditRequest
from editgym.envs import metering
from editgym.envs.lifelong.reward import (
    Costs,
    LookBack,
    RewardWeights,
    floored,
    squared_norm,
    squared_norms,
)
from editgym.tasks.knowledge import KnowledgeTask, Stream, StreamSplit
from editgym.weights import EditableDecoder, Entry, LowRankFactors, Shift, SiteEdit, TokenBatch
from editgym.weights.closed_form import UltraEdit, principal_directions
from editgym.weights.disk_journal import DiskJournal
from editgym.weights.layers import Prefix
from editgym.weights.site_pass import Capture

Basis = Literal["ultraedit", "gradient"]
DIRECTIONS = 4  # q


class ClosedStreamError(RuntimeError):
    """A reward of a stream that agents are evaluated on was asked for."""


@dataclass(frozen=True)
class LifelongSettings:
    """What defines the process.

    Attributes:
        edits_per_step: Requests in a batch.
        horizon: Batches in an episode.
        split: Where requests come from; only `policy` streams have rewards.
        basis: Which update `directions` takes apart.
        reward: Its weights.
    """

    edits_per_step: int = 10
    horizon: int = 20
    split: StreamSplit = "policy"
    basis: Basis = "ultraedit"
    reward: RewardWeights = field(default_factory=RewardWeights)


@dataclass(frozen=True)
class LifelongOutcome:
    """What one step gave.

    Attributes:
        reward: Scalar; carries gradients to the factors when the step was asked to be
            differentiable. 0 on closed streams.
        answered: Which of the batch's prompts the model now answers exactly, (edits_per_step,)
            bool.
        metrics: Of the batch: `reliability` and `tf_efficacy`, by prompts; where a reward was
            computed also `generalization` and `locality`, by the rewarded rephrases and locality
            prompts; `locality` is 0 where the batch has no such prompt.
    """

    reward: Tensor
    answered: Tensor
    metrics: dict[str, float]


class LifelongProcess:
    """A stream of batches into one decoder; the tensor API of `LifelongLLMEdit-v0`.

    One step is: look at `requests` and `capture` (keys and gradients of the new requests), then
    call one of `step`, `differentiable_step` and `advance`.

    Args:
        task: Model and requests.
        settings: What defines the process.
    """

    def __init__(self, task: KnowledgeTask, settings: LifelongSettings) -> None:
        self.task = task
        self.settings = settings
        self.decoder: EditableDecoder = task.decoder.fresh()
        self.sites = self.decoder.sites
        self.stream = Stream(())
        self.step_index = 0
        self._run: str | None = None
        self._look_back = LookBack(task, settings.reward)

    # --- episodes ---------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether the stream has rewards."""
        return self.settings.split == "policy"

    @property
    def horizon(self) -> int:
        """Batches in an episode."""
        return self.settings.horizon

    @property
    def device(self) -> torch.device:
        """Where keys, gradients and updates live."""
        return self.task.device

    @property
    def step_size(self) -> float:
        """UltraEdit's η for the task's model."""
        return self.task.step_size

    @property
    def over(self) -> bool:
        """Whether every batch has been edited."""
        return self.step_index >= self.settings.horizon

    def reset(self, seed: int) -> None:
        """Begin the stream that `seed` draws, on the unedited model.

        Raises:
            ValueError: The split has too few requests, or the journal's folder holds steps of an
                interrupted stream.
        """
        journal = self.decoder.journal
        if self._run is None and isinstance(journal, DiskJournal) and journal.steps:
            raise ValueError(
                f"journal_folder: {journal.folder} holds {journal.steps} steps of an interrupted"
                " stream, and a reset would delete them; go on with them by an editor's edit(env,"
                ' folder) or reset(options={"restore": state}), or delete the folder'
            )
        self._begin(seed, self._drawn(seed))
        self._run = uuid.uuid4().hex
        self.decoder.reset()

    def _drawn(self, seed: int) -> Stream:
        settings = self.settings
        rng = random.Random(f"stream {settings.split} {seed}")
        return self.task.stream(settings.split, settings.horizon * settings.edits_per_step, rng)

    def _begin(self, seed: int, stream: Stream) -> None:
        settings = self.settings
        self.stream = stream
        self._seed = seed
        self.step_index = 0
        self._look_back.begin(self.stream.requests, settings.edits_per_step, seed)
        self._ultraedit = [UltraEdit(site.shape, self.task.device) for site in self.sites]
        self._forget_batch()

    # --- what an editor may see -------------------------------------------------------------------

    @cached_property
    def requests(self) -> tuple[EditRequest, ...]:
        """The new requests; an editor may look at their subject, prompt and target.

        Raises:
            IndexError: The stream is over.
        """
        if self.over:
            raise IndexError(f"the stream is over after {self.settings.horizon} steps")
        start = self.step_index * self.settings.edits_per_step
        return self.stream.requests[start : start + self.settings.edits_per_step]

    @cached_property
    def prompts(self) -> TokenBatch:
        """The new requests' prompts and targets as tokens."""
        return self.task.batch([(request.prompt, request.target) for request in self.requests])

    @cached_property
    def prefix(self) -> Prefix | None:
        """What no edit changes about `prompts` (`EditableDecoder.prefix`)."""
        return self.decoder.prefix(self.prompts)

    @cached_property
    def capture(self) -> Capture:
        """Keys, output gradients and loss of the new requests' prompts and targets."""
        return self.decoder.capture(self.prompts, self.prefix)

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """`capture` as it would be with one more update per site, which is not applied.

        For editors that correct their own update before they make it.
        """
        kept = [LowRankFactors(u.a.detach(), u.b.detach(), u.scale, u.bound) for u in updates]
        return self.decoder.capture(self.prompts, self.prefix, kept)

    @cached_property
    def directions(self) -> list[LowRankFactors]:
        """Per site the training-free update by its singular directions, largest first: what
        coefficients stretch.

        Raises:
            FloatingPointError: Keys or gradients are not finite; the running statistics are without
                them then.
        """
        captured = list(zip(self.capture.keys, self.capture.gradients, strict=True))
        if self.settings.basis == "gradient":
            updates = [
                LowRankFactors(-self.task.step_size * gradients.mT, keys)
                for keys, gradients in captured
            ]
        else:
            updates = [
                editor.update(keys, gradients, self.task.step_size)
                for editor, (keys, gradients) in zip(self._ultraedit, captured, strict=True)
            ]
        try:
            return [principal_directions(update) for update in updates]
        except FloatingPointError:
            self._load_statistics(self._before_batch["ultraedit"])
            raise

    def stretched(self, coefficients: Tensor) -> list[LowRankFactors]:
        """Updates ΔW_l = Σ_j c_lj σ_j u_j v_jᵀ from coefficients (..., sites, q = 4), with their
        leading dimensions.

        The last coefficient is that of all directions from the q-th on, so that equal ones scale
        the whole update.
        """
        updates = []
        for index, direction in enumerate(self.directions):
            own = torch.arange(direction.a.shape[1], device=coefficients.device).clamp(
                max=DIRECTIONS - 1
            )
            stretch = coefficients[..., index, :][..., own].unsqueeze(-2)  # (..., 1, n)
            b = direction.b.expand(*coefficients.shape[:-2], *direction.b.shape)
            updates.append(LowRankFactors(direction.a * stretch, b))
        return updates

    # --- steps ------------------------------------------------------------------------------------

    def step(self, updates: Sequence[LowRankFactors]) -> LifelongOutcome:
        """Apply one update per site, and reward it."""
        return self.advance(self._entries(updates))

    def advance(self, entries: Sequence[Entry], rewarded: bool = True) -> LifelongOutcome:
        """Apply any journal entries as this step's edit, and reward them.

        Args:
            entries: What to apply, also nothing at all; their `step` is set.
            rewarded: Whether the reward is wanted; if not, it is 0 and costs nothing.

        Raises:
            UnknownSiteError, ValueError: As `EditableDecoder.apply`; nothing has changed then.
        """
        numbered = [replace(entry, step=self.step_index) for entry in entries]
        if self.open:
            self._look_back.push(self.decoder, self.step_index)
        if not (self.open and rewarded):
            with self._whole_or_nothing():
                self.decoder.apply(*numbered)
                return self._finish(torch.zeros(()), None)
        pieces = self._look_back.pieces(self.decoder)
        with self._whole_or_nothing():
            self.decoder.apply(*numbered)
            costs = self._look_back.costs(self.decoder, pieces)
            norm = sum(squared_norm(entry) for entry in numbered)
            metering.record(1)
            return self._finish(
                floored(-(costs.total + self.settings.reward.norm_weight * norm)), costs
            )

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> LifelongOutcome:
        """`step` for agents that learn through the reward: first order, through this step's factors
        alone.

        The forward and backward passes are made by micro-batches right here, so memory does not
        grow with `back_depth`; `reward.backward()` only hands the finished gradients on to the
        factors. Of a model that has collapsed these may not be finite.

        Raises:
            ClosedStreamError: The stream has no rewards.
            ValueError: An update is clipped.
        """
        self._check_open()
        self._look_back.push(self.decoder, self.step_index)
        pieces = self._look_back.pieces(self.decoder)
        leaves = [
            LowRankFactors(
                u.a.detach().clone().requires_grad_(),
                u.b.detach().clone().requires_grad_(),
                u.scale,
                u.bound,
            )
            for u in updates
        ]
        costs = self._look_back.costs(self.decoder, pieces, leaves, backward=True)
        with torch.enable_grad():
            penalty = self.settings.reward.norm_weight * squared_norms(leaves).sum()
            penalty.backward()
        gradients = [
            -part.grad for leaf in leaves for part in (leaf.a, leaf.b) if part.grad is not None
        ]
        value = floored(-(costs.total + penalty.detach()))
        reward = _WithGradients.apply(
            value, gradients, *(part for u in updates for part in (u.a, u.b))
        )
        with self._whole_or_nothing():
            self.decoder.apply(
                *[replace(entry, step=self.step_index) for entry in self._entries(updates)]
            )
            metering.record(1)
            return self._finish(reward, costs)

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Rewards (K,) of K candidate updates of the state as it is, in one pass; nothing is
        applied.

        Args:
            updates: Per site, A (K, out, r) and B (K, r, in).

        Raises:
            ClosedStreamError: The stream has no rewards.
        """
        self._check_open()
        self._look_back.push(self.decoder, self.step_index)
        costs = self._look_back.costs(self.decoder, self._look_back.pieces(self.decoder), updates)
        metering.record(len(updates[0].a))
        return floored(
            -(costs.total + self.settings.reward.norm_weight * squared_norms(updates).sum(0))
        )

    # --- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a process on the same task, stream and journal needs to go on, as tensors and plain
        values.
        """
        # As it was before anybody looked at the new batch: whoever goes on from here looks at it
        # again.
        return {
            "seed": self._seed,
            "run": self._run,
            "step_index": self.step_index,
            "stream": self._identity(),
            "requests": self.stream.fingerprint,
            "journalled": self._journalled(self.step_index),
            **self._before_batch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave, on the same stream.

        The decoder's journal is rolled back to the state's step, so a step that was journalled
        after the state was saved is edited again. Rewards look back to the batches from here on.

        Raises:
            ValueError: The state is of another stream, other requests or another model, or the
                journal lacks steps that were made before it or was begun anew since; nothing has
                changed then.
        """
        if state["stream"] != self._identity():
            raise ValueError(
                f"state: it is of the stream {state['stream']}, this one is {self._identity()}: go"
                " on with the same task, split, horizon and edits_per_step"
            )
        if state["journalled"] != self._journalled(state["step_index"]):
            raise ValueError(
                f"state: it was saved after the journalled steps {state['journalled']}, the journal"
                f" has {self._journalled(state['step_index'])} of them: give the same"
                " journal_folder, or begin anew"
            )
        if state["journalled"] and self._run not in (None, state.get("run")):
            raise ValueError(
                "state: the journal of its steps is gone, for another episode was begun here since:"
                " go on before any other reset, with the same journal_folder"
            )
        stream = self._drawn(state["seed"])
        if state["requests"] != stream.fingerprint:
            raise ValueError(
                "state: it was saved in a stream of other requests than are drawn here: go on with"
                " the same requests and test_requests, as their files were then"
            )
        self._begin(state["seed"], stream)
        self._run = state.get("run")
        self._load_statistics(state["ultraedit"])
        self.step_index = state["step_index"]
        self._forget_batch()
        self.decoder.rollback(self.step_index)

    # --- inside -----------------------------------------------------------------------------------

    def _load_statistics(self, states: Sequence[dict[str, Any]]) -> None:
        for editor, own in zip(self._ultraedit, states, strict=True):
            editor.load_state_dict(own)

    def _forget_batch(self) -> None:
        for name in ("requests", "prompts", "prefix", "capture", "directions"):
            self.__dict__.pop(name, None)
        self._before_batch = {"ultraedit": [editor.state_dict() for editor in self._ultraedit]}

    def _identity(self) -> list[Any]:
        """What a stream's batches depend on beside its seed."""
        settings = self.settings
        return [
            self.task.name,
            self.decoder.base_hash,
            settings.split,
            settings.horizon,
            settings.edits_per_step,
        ]

    def _journalled(self, before: int) -> list[int]:
        """Steps below `before` that the journal has."""
        return sorted(
            {
                entry.step
                for entry in self.decoder.journal
                if entry.step is not None and entry.step < before
            }
        )

    def _check_open(self) -> None:
        if not self.open:
            raise ClosedStreamError(
                f"split {self.settings.split!r} is for evaluation and has no rewards: learn on "
                'split="policy"'
            )

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """A step that is interrupted before it is counted is taken back, or it would be made
        twice.
        """
        step = self.step_index
        try:
            yield
        except BaseException:
            if self.step_index == step:
                self.decoder.rollback(step)
            raise

    def _entries(self, updates: Sequence[LowRankFactors]) -> list[Entry]:
        if len(updates) != len(self.sites):
            raise ValueError(
                f"updates: {len(self.sites)} are needed, one per site, got {len(updates)}"
            )
        kept = (
            LowRankFactors(u.a.detach().clone(), u.b.detach().clone(), u.scale, u.bound)
            for u in updates
        )
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(self.sites, kept, strict=True)
        ]

    @torch.no_grad()
    def _finish(self, reward: Tensor, costs: Costs | None) -> LifelongOutcome:
        right = (
            self.decoder.logits(self.prompts, prefix=self.prefix).argmax(-1) == self.prompts.labels
        )
        answered = self.prompts.all_of(right)
        metrics = {
            "reliability": float(answered.float().mean()),
            "tf_efficacy": float(
                self.prompts.means(
                    right.float(), self.prompts.content(self.task.language.end_id)
                ).mean()
            ),
        }
        if costs is not None:
            metrics |= {"generalization": costs.generalization, "locality": costs.locality}
        self.step_index += 1
        self._forget_batch()
        return LifelongOutcome(reward, answered, metrics)


class _WithGradients(torch.autograd.Function):
    """A scalar whose gradients by `tensors` were computed before."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *tensors: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return None, None, *(upstream * gradient for gradient in ctx.gradients)
