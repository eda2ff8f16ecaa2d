"""The decision process of LifelongLLMEdit in torch: batches, their updates, and what they cost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from editgym.data.facts import EditRequest
from editgym.envs.lifelong import checkpoint
from editgym.envs.lifelong.batch import Batch
from editgym.envs.lifelong.episode import REWARDED
from editgym.envs.lifelong.episode import LifelongOutcome as LifelongOutcome
from editgym.envs.lifelong.grades import Grades
from editgym.envs.lifelong.gradient import differentiable_reward
from editgym.envs.lifelong.rehearsal import drawn, most_lost
from editgym.envs.lifelong.reward import Costs, LookBack, floored, squared_norm, squared_norms
from editgym.envs.lifelong.settings import ClosedStreamError as ClosedStreamError
from editgym.envs.lifelong.settings import LifelongSettings as LifelongSettings
from editgym.envs.lifelong.updates import DIRECTIONS as DIRECTIONS
from editgym.envs.lifelong.updates import site_edits, stretch
from editgym.tasks.knowledge.task import KnowledgeTask, Stream
from editgym.weights import EditableDecoder, Entry, LowRankFactors, Shift, TokenBatch
from editgym.weights.closed_form import UltraEdit
from editgym.weights.language.capture import Capture
from editgym.weights.language.layers import Prefix


class LifelongProcess:
    """A stream of batches into one decoder; the tensor API of `LifelongLLMEdit`.

    One step is: look at `requests` and `capture` (keys and gradients of the new requests, and of
    those that are rehearsed), then call one of `step`, `differentiable_step` and `advance`.

    Args:
        task: Model and requests.
        settings: What defines the process.

    Attributes:
        stream: The requests of the episode, and how many were left out while drawing it.
        outcomes: What each step so far gave, whoever made it.
    """

    def __init__(self, task: KnowledgeTask, settings: LifelongSettings) -> None:
        self.task = task
        self.settings = settings
        self.decoder: EditableDecoder = task.decoder.fresh()
        self.sites = self.decoder.sites
        self._run: str | None = None
        self._look_back = LookBack(task, settings.reward)
        self._grades = Grades(self.decoder, self._graded_batch)
        self._begin(0, Stream(()))

    # --- episodes ---------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether the stream has rewards."""
        return self.settings.open

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
    def step_index(self) -> int:
        """Steps made so far."""
        return len(self.outcomes)

    @property
    def begun(self) -> bool:
        """Whether there is a stream: after `reset`, or a restored state."""
        return bool(self.stream.requests)

    @property
    def over(self) -> bool:
        """Whether every batch has been edited."""
        return self.step_index >= self.settings.horizon

    def reset(self, seed: int) -> None:
        """Begin the stream that `seed` draws, or the fixed one, on the unedited model.

        Raises:
            ValueError: The split has too few requests, or the journal's folder holds steps of an
                interrupted stream, or of another environment; nothing has changed then.
        """
        if self._run is None:
            checkpoint.check_resettable(self.decoder.journal)
        seed = self.settings.stream_seed(seed)
        stream = self.settings.drawn(self.task, seed)
        self.decoder.reset()
        self._begin(seed, stream)
        self._run = uuid.uuid4().hex

    def _begin(self, seed: int, stream: Stream) -> None:
        self.stream = stream
        self._seed = seed
        self.outcomes: list[LifelongOutcome] = []
        self._grades.close()
        self._grades = Grades(self.decoder, self._graded_batch)
        self._look_back.begin(stream, self.settings.edits_per_step, seed)
        self._ultraedit = [UltraEdit(site.shape, self.task.device) for site in self.sites]
        self._batch = self._next_batch(0)

    def _next_batch(self, step: int) -> Batch:
        """The batch of the step that is to be made next, of the model as it is now."""
        stream, settings = self.stream, self.settings
        new, earlier = settings.places(step, stream)
        if settings.rehearse_by == "draw":
            again = drawn(earlier, settings.rehearse, self._seed, step)
        else:
            again = most_lost(earlier, settings.rehearse, stream, self.task, self.decoder)
        return self._batch_of(new, again, self.decoder)

    def _graded_batch(self, step: int, decoder: EditableDecoder) -> Batch:
        """The batch of a step that was made, to be graded: of its new requests alone."""
        return self._batch_of(self.settings.places(step, self.stream)[0], (), decoder)

    def _batch_of(
        self, new: Sequence[int], again: Sequence[int], decoder: EditableDecoder
    ) -> Batch:
        own = self.settings
        return Batch(self.stream, new, again, self.task, decoder, self._ultraedit, own.basis)

    # --- what an editor may see -------------------------------------------------------------------

    @property
    def batch(self) -> Batch:
        """The new requests, and what the model makes of them.

        Raises:
            IndexError: The stream is over.
        """
        if self.over:
            raise IndexError(f"the stream is over after {self.settings.horizon} steps")
        return self._batch

    @property
    def requests(self) -> tuple[EditRequest, ...]:
        """The new requests; an editor may look at their subject, prompt and target."""
        return self.batch.requests

    @property
    def prompts(self) -> TokenBatch:
        """Prompts and targets of `batch.taught`, new and rehearsed requests, as tokens."""
        return self.batch.prompts

    @property
    def prefix(self) -> Prefix | None:
        """What no edit changes about `prompts` (`EditableDecoder.prefix`)."""
        return self.batch.prefix

    @property
    def capture(self) -> Capture:
        """Keys, output gradients and loss of `prompts`; its `new` has those of new requests."""
        return self.batch.capture

    def captured_after(self, updates: Sequence[LowRankFactors]) -> Capture:
        """`capture` as it would be with one more update per site, which is not applied: for editors
        that correct their own update.
        """
        return self.batch.captured_after(updates)

    @property
    def directions(self) -> list[LowRankFactors]:
        """Per site the training-free update by its singular directions, largest first.

        Raises:
            FloatingPointError: Keys or gradients are not finite; the running statistics are without
                them then.
        """
        return self.batch.directions

    def stretched(self, coefficients: Tensor) -> list[LowRankFactors]:
        """`directions` times coefficients (..., sites, q = 4), as `updates.stretch` does it."""
        return stretch(self.directions, coefficients)

    # --- steps ------------------------------------------------------------------------------------

    def step(self, updates: Sequence[LowRankFactors]) -> LifelongOutcome:
        """Apply one update per site, and reward it."""
        return self.advance(site_edits(self.sites, Shift(), updates))

    def advance(self, entries: Sequence[Entry], rewarded: bool = True) -> LifelongOutcome:
        """Apply any journal entries as this step's edit, and reward them.

        Args:
            entries: What to apply, also nothing at all; their `step` is set.
            rewarded: Whether the reward is wanted; if not, it is 0 and costs nothing.

        Raises:
            UnknownSiteError, ValueError: An entry cannot be applied; nothing has changed then.
        """
        numbered = [replace(entry, step=self.step_index) for entry in entries]
        if self.open:
            self._look_back.push(self.decoder, self.step_index)
        rewarded = rewarded and self.open
        pieces = self._look_back.pieces(self.decoder) if rewarded else []
        with self._whole_or_nothing():
            self.decoder.apply(*numbered)
            if not rewarded:
                return self._finish(torch.zeros(()), None)
            costs = self._look_back.costs(self.decoder, pieces)
            norm = self.settings.reward.norm_weight * sum(map(squared_norm, numbered))
            self._grades.pay(1)
            return self._finish(floored(-(costs.total + norm)), costs)

    def differentiable_step(self, updates: Sequence[LowRankFactors]) -> LifelongOutcome:
        """`step` with a reward to learn through: first order, by this step's factors alone.

        Memory does not grow with `back_depth`. Of a model that has collapsed the gradients may not
        be finite.

        Raises:
            ClosedStreamError: The stream has no rewards.
            ValueError: An update is clipped.
        """
        self.settings.check_open()
        self._look_back.push(self.decoder, self.step_index)
        reward, costs = differentiable_reward(self._look_back, self.decoder, updates)
        edits = site_edits(self.sites, Shift(), updates)
        with self._whole_or_nothing():
            self.decoder.apply(*(replace(edit, step=self.step_index) for edit in edits))
            self._grades.pay(1, gradient=True)
            return self._finish(reward, costs)

    def candidate_rewards(self, updates: Sequence[LowRankFactors]) -> Tensor:
        """Rewards (K,) of K candidate updates of the state as it is, in one pass; nothing is
        applied.

        Args:
            updates: Per site, A (K, out, r) and B (K, r, in).

        Raises:
            ClosedStreamError: The stream has no rewards.
        """
        self.settings.check_open()
        self._look_back.push(self.decoder, self.step_index)
        costs = self._look_back.costs(self.decoder, self._look_back.pieces(self.decoder), updates)
        self._grades.pay(len(updates[0].a))
        norms = self.settings.reward.norm_weight * squared_norms(updates).sum(0)
        return floored(-(costs.total + norms))

    # --- checkpoints ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a process on the same task, stream and journal needs to go on, as tensors and plain
        values.
        """
        return {
            "seed": self._seed,
            "run": self._run,
            "step_index": self.step_index,
            "stream": self.settings.identity(self.task),
            **self._edited,
            "requests": self.stream.fingerprint,
            "journalled": checkpoint.journalled(self.decoder.journal, self.step_index),
            "ultraedit": self._batch.before,  # whoever goes on from here looks at the batch again
            "outcomes": [
                checkpoint.outcome_state(outcome, self._grades.known(step))
                for step, outcome in enumerate(self.outcomes)
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave, on the same stream.

        The decoder's journal is rolled back to the state's step, so a step that was journalled
        after the state was saved is edited again. Rewards look back to the batches from here on.

        Raises:
            ValueError: The state is of another stream, other requests or another model, or the
                journal lacks steps that were made before it, has other edits there, or was begun
                anew since; nothing has changed then.
        """
        identity, own = self.settings.identity(self.task), self._edited
        checkpoint.check_restorable(state, identity, own, self.decoder.journal, self._run)
        stream = self.settings.drawn(self.task, state["seed"])
        checkpoint.check_same_requests(state, stream)
        kept = checkpoint.kept(state, self.sites, self.device)
        self.decoder.rollback(state["step_index"])
        try:
            self._begin(state["seed"], stream)
            for step, (grade, reward, rewarded) in enumerate(kept.steps):
                self._grades.restore(step, grade, paid=bool(rewarded))
                self.outcomes.append(self._outcome(step, reward, rewarded))
            self._ultraedit = kept.statistics
            self._batch = self._next_batch(self.step_index)
            self._run = state.get("run")
        except BaseException:
            self._begin(0, Stream(()))  # no stream, rather than the batch of another step
            raise

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _edited(self) -> dict[str, Any]:
        """What is edited and how far, by name of the argument."""
        return {"sites": [site.name for site in self.sites], "step_size": self.step_size}

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Take back a step that is interrupted before it is counted: it would be made twice."""
        step, batch = self.step_index, self._batch
        try:
            yield
        except BaseException:
            if self.step_index == step:
                self.decoder.rollback(step)
                self._grades.take_back(step)
                self._batch = batch
            raise

    def _finish(self, reward: Tensor, costs: Costs | None) -> LifelongOutcome:
        rewarded = (
            {}
            if costs is None
            else dict(zip(REWARDED, (costs.generalization, costs.locality), strict=True))
        )
        step, batch = self.step_index, self.batch
        outcome = self._outcome(step, reward, rewarded)
        following = self._next_batch(step + 1)
        self._grades.add(step, batch)
        self._batch = following
        self.outcomes.append(outcome.kept())  # from here on the step is made
        batch.forget()
        return outcome

    def _outcome(self, step: int, reward: Tensor, rewarded: Mapping[str, float]) -> LifelongOutcome:
        return LifelongOutcome(reward, rewarded, partial(self._grades.of, step))
