"""What the environment of streams of edits does; its door, `lifelong_llm_edit`, says what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from editgym.checks import texts_of
from editgym.envs.arguments import checked_action
from editgym.envs.lifelong import checkpoint
from editgym.envs.lifelong.arguments import ActionForm
from editgym.envs.lifelong.episode import LifelongOutcome, StreamEpisode
from editgym.envs.lifelong.observation import StreamObserver
from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.lifelong.rendering import RENDER_MODES, render
from editgym.envs.lifelong.settings import LifelongSettings, drawn_seed
from editgym.envs.lifelong.updates import DIRECTIONS, site_edits
from editgym.envs.tensors import ordinary_tensors
from editgym.metrics.evaluation import Evaluation
from editgym.models.prompt_formats import prompt_format
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.tasks.knowledge_evaluation import evaluate_stream
from editgym.weights import (
    ActionLayout,
    EditableDecoder,
    EditJournal,
    LowRankFactors,
    Shift,
    SiteEdit,
)


class StreamEditing(gym.Env[NDArray[np.float32], NDArray[np.float32]], EzPickle):
    """A stream of corrections of facts into a causal language model.

    The process holds the episode: steps that an editor makes through `process` are shown and
    counted like those of `step`.

    Args:
        task: Model and requests.
        settings: What defines the process.
        action: `coefficients` or `factors`.
        max_coefficient: What a coefficient of 1 stretches a direction by.
        rank: Columns of a site's factors.
        shift: How factors are applied.
        observation_bound: Limit of every observed number.
        journal_folder: Where the journal is kept; None for memory.
        render_mode: `rgb_array`, `ansi` or None.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": 2}  # noqa: RUF012 - Gymnasium's

    @ordinary_tensors()
    def __init__(
        self,
        task: KnowledgeTask,
        settings: LifelongSettings,
        action: ActionForm,
        max_coefficient: float,
        rank: int,
        shift: Shift,
        observation_bound: float,
        journal_folder: str | None,
        render_mode: str | None,
    ) -> None:
        self.task = task
        self.process = LifelongProcess(task, settings)
        if journal_folder is not None:
            self.process.decoder.resume(Path(journal_folder))
        self.layout = ActionLayout(tuple(site.shape for site in self.process.sites), rank)
        self.action_form = action
        self.max_coefficient = max_coefficient
        self.shift = shift
        coefficients = len(self.process.sites) * DIRECTIONS
        self._action_shape = (coefficients if action == "coefficients" else self.layout.size,)
        self.action_space = spaces.Box(-1.0, 1.0, self._action_shape, np.float32)
        self._observer = StreamObserver(self.process, observation_bound)
        self.observation_space = self._observer.space
        self.render_mode = render_mode
        self._stream_seed: int | None = None

    @property
    def journal(self) -> EditJournal:
        """The edits of the current episode."""
        return self.process.decoder.journal

    @property
    def network(self) -> EditableDecoder:
        """The model under edit."""
        return self.process.decoder

    @property
    def episode_length(self) -> int:
        """Steps per episode."""
        return self.process.settings.horizon

    @property
    def episode(self) -> StreamEpisode:
        """Rewards and infos of every step of the current episode, whoever made it."""
        settings, outcomes = self.process.settings, tuple(self.process.outcomes)
        return StreamEpisode(self.task.name, settings.horizon, settings.edits_per_step, outcomes)

    @property
    def choices(self) -> dict[str, int]:
        """Nothing: a stream is drawn from the split's requests, and no option names it."""
        return {}

    def training_free_action(self) -> NDArray[np.float32]:
        """The action that is UltraEdit at the task's step size.

        Raises:
            ValueError: Actions are factors.
        """
        if self.action_form != "coefficients":
            raise ValueError('action must be "coefficients" for UltraEdit to be one action')
        return np.full(len(self.process.sites) * DIRECTIONS, 1 / self.max_coefficient, np.float32)

    @ordinary_tensors()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Restore the model, bitwise, and begin a stream; or go on with the one of a `checkpoint`.

        Args:
            seed: Starts all random streams of the environment anew.
            options: `{"restore": state}` goes on where `checkpoint` gave the state, with the
                journal that is in `journal_folder`; steps that were journalled later are taken
                back. Rewards look back to batches from there on.

        Returns:
            Observation and info: `skipped`, of a restored episode also `edit_step` and
            `edits_done`.

        Raises:
            ValueError: An option is not known, or the split has too few requests. Or there is a
                seed beside the state, the state is of another stream, or the journal lacks its
                steps; nothing has changed then.
        """
        state = checkpoint.restored_state(options or {}, seed)
        if state is not None:
            return self._restored(state)
        super().reset(seed=seed)
        if self._stream_seed is None or seed is not None or self.process.open:
            self._stream_seed = drawn_seed(self.np_random)
        self.process.reset(self._stream_seed)
        return self._begun()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply one update and reward it.

        Raises:
            ValueError: The action is not finite, out of range or of the wrong shape; nothing has
                changed then.
            gymnasium.error.ResetNeeded: The episode is over, or there was no reset.
        """
        return self._step(action, rewarded=True)

    @ordinary_tensors()
    def candidate_rewards(self, actions: NDArray[np.float32]) -> Tensor:
        """Rewards of K actions on the state that the stream is in, none of which is applied.

        Args:
            actions: (K, action size), coefficients in [−1, 1]; not checked here.

        Returns:
            (K,), on the task's device.

        Raises:
            ClosedStreamError: The split is for evaluation.
            FloatingPointError: The model has collapsed.
            gymnasium.error.ResetNeeded: The episode is over, or there was no reset.
        """
        self._check_running()
        flat = torch.from_numpy(actions.astype(np.float32)).to(self.task.device)
        return self.process.candidate_rewards(self._stretched(flat))

    def follow(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool, dict[str, Any]]:
        """`step` for agents that have asked `candidate_rewards` already: no reward is computed.

        Returns:
            Observation, whether the episode is over, and info, with `generalization` and `locality`
            0.

        Raises:
            ValueError, gymnasium.error.ResetNeeded: `step` would raise it.
        """
        observation, _, terminated, _, info = self._step(action, rewarded=False)
        return observation, terminated, info

    @ordinary_tensors()
    def _step(
        self, action: NDArray[np.float32], rewarded: bool
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._check_running()
        flat = checked_action(action, self._action_shape, self.task.device)
        outcome = self.process.advance(self._entries(flat), rewarded)
        info = self.episode.info(-1)
        return self._observer(), float(outcome.reward), self.process.over, False, info

    @ordinary_tensors()
    def differentiable_step(self, action: Tensor) -> LifelongOutcome:
        """`step` with `outcome.reward` carrying gradients to `action`; the episode moves on as with
        `step`.

        Args:
            action: Flat, on the task's device, in [−1, 1]; coefficients only, for clipped factors
                have no such step.

        Raises:
            ClosedStreamError: The split is for evaluation.
            ValueError: `step` would refuse the action, or actions are factors.
            FloatingPointError: The model has collapsed.
            gymnasium.error.ResetNeeded: The episode is over, or there was no reset.
        """
        self._check_running()
        if self.action_form != "coefficients":
            raise ValueError(
                "differentiable_step: hand factors to env.unwrapped.process.differentiable_step"
            )
        action = action.float()
        checked_action(action.detach().cpu().numpy(), self._action_shape, self.task.device)
        return self.process.differentiable_step(self._stretched(action))

    @ordinary_tensors()
    def evaluate(self, journal: EditJournal, thorough: bool = True) -> Evaluation:
        """The leaderboard's metrics of a journal on the current episode's stream, its curve and
        per-edit records.

        Args:
            journal: The edits.
            thorough: Whether to measure also what takes passes of its own (`evaluate_stream`).

        Raises:
            JournalError: The journal belongs to another model or stream.
            gymnasium.error.ResetNeeded: There was no reset.
        """
        self._check_begun("call reset() before evaluate(): it draws the stream")
        requests, own = self.process.stream.requests, self.process.settings
        size, rehearse = own.edits_per_step, own.rehearse
        return evaluate_stream(self.task, journal, requests, size, rehearse, thorough=thorough)

    def ask(
        self, prompts: Sequence[str], formats: Sequence[str] | None = None
    ) -> dict[str, list[str]]:
        """What the model as it is now answers, greedily.

        Args:
            prompts: What is asked, each a text before its answer.
            formats: Prompt formats to ask in, names or texts with `{prompt}` in them; None for the
                environment's own.

        Returns:
            The answers by format.

        Raises:
            ValueError: The prompts or the formats are no list of texts, a format is not known, the
                model has no chat template, or a prompt is longer than its context.
        """
        interview = self.task.interview
        chosen = [interview.prompt_format] if formats is None else formats
        texts_of("prompts", prompts)
        texts_of("formats", chosen, least=1)
        for form in chosen:
            prompt_format(form, "formats: each")
        asked = [interview.in_format(form) for form in chosen]
        return {
            one.prompt_format: Exam(self.task.asked(one), self.network).answers(prompts)
            for one in asked
        }

    def checkpoint(self) -> dict[str, Any]:
        """What `reset(options={"restore": state})` needs to go on with this episode, as tensors and
        plain values.

        The journal is not in it.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset.
        """
        self._check_begun("call reset() before checkpoint()")
        return {
            "process": self.process.state_dict(),
            "stream_seed": self._stream_seed,
            "random": self.np_random.bit_generator.state,
        }

    def render(self) -> Any:
        """The episode so far: a frame (height, width, 3) uint8, or text."""
        if self.render_mode is None:
            gym.logger.warn('render() needs a render_mode: gym.make(..., render_mode="rgb_array")')
            return None
        self._check_begun("call reset() before render()")
        return render(self.episode, self.render_mode)

    def _restored(self, state: dict[str, Any]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        checkpoint.check_random(state["random"], self.np_random)
        self.process.load_state_dict(state["process"])
        self.np_random.bit_generator.state = state["random"]
        self._stream_seed = state["stream_seed"]
        observation, info = self._begun()
        done, size = float(self.process.step_index), self.process.settings.edits_per_step
        return observation, info | {"edit_step": done, "edits_done": done * size}

    def _begun(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """What `reset` returns for the process as it is."""
        return self._observer(), {"skipped": float(sum(self.process.stream.skipped.values()))}

    def _entries(self, flat: Tensor) -> list[SiteEdit]:
        """What an action applies; a site whose part of the action is zero is left alone."""
        sites = self.process.sites
        if self.action_form == "factors":
            return site_edits(sites, self.shift, self.layout.unpack(flat))
        try:
            updates = self._stretched(flat)
        except FloatingPointError:  # the model has collapsed
            return []
        return [
            SiteEdit(site.name, Shift(), update)
            for site, row, update in zip(sites, flat.view(-1, DIRECTIONS), updates, strict=True)
            if bool(row.any())
        ]

    def _stretched(self, flat: Tensor) -> list[LowRankFactors]:
        """One update per site from coefficients (..., sites × 4) in [−1, 1]."""
        coefficients = flat.unflatten(-1, (len(self.process.sites), DIRECTIONS))
        return self.process.stretched(self.max_coefficient * coefficients)

    def _check_begun(self, remedy: str) -> None:
        if not self.process.begun:
            raise gym.error.ResetNeeded(remedy)

    def _check_running(self) -> None:
        self._check_begun("no episode has begun: call reset() before step()")
        if self.process.over:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
