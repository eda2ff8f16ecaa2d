"""LifelongLLMEdit-v0: a stream of facts into a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from editgym.checks import is_finite, is_whole, require
from editgym.envs.arguments import checked_action, task_for
from editgym.envs.lifelong.observation import StreamObserver
from editgym.envs.lifelong.process import (
    DIRECTIONS,
    Basis,
    LifelongOutcome,
    LifelongProcess,
    LifelongSettings,
)
from editgym.envs.lifelong.rendering import RENDER_MODES, StreamEpisode, render
from editgym.envs.lifelong.reward import Reference, RewardWeights
from editgym.metrics.evaluation import Evaluation
from editgym.tasks.knowledge import SPLITS, KnowledgeTask, StreamSplit
from editgym.tasks.knowledge_evaluation import evaluate_stream
from editgym.weights import (
    ActionLayout,
    DenseUpdate,
    EditableDecoder,
    EditJournal,
    LowRankFactors,
    Shift,
    SiteEdit,
    Update,
)

ActionForm = Literal["coefficients", "factors"]
INFO_KEYS = ("reliability", "generalization", "locality", "tf_efficacy")


class LifelongLLMEditEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]], EzPickle):
    """A stream of corrections of facts, `edits_per_step` at a time, into a causal language model.

    The base weights are never written to: the live state is one fp32 matrix per site, and every
    step's factors are in `journal`.

    Observation:
        `Box(-bound, bound)`, float32. Per site, in order: a sketch of the current weights (16
        numbers), of the mean key and of the mean output gradient of the new requests' answer tokens
        (8 each; keys are the module's inputs), the q = 4 largest singular values of the
        training-free update over ‖W₀‖, its length over ‖W₀‖, and ‖W − W₀‖ over ‖W₀‖; then the loss
        of the new requests, the number of their answer tokens, and the progress of the episode. An
        agent that wants the whole matrices reads `process.capture`.

    Action:
        `Box(-1, 1)`, float32, of one of two forms.

        - `coefficients` (default): (sites × 4,). Of the training-free UltraEdit update ΔW = Σ_j σ_j
          u_j v_jᵀ of each site, c_max (a_l1 σ_1 u_1 v_1ᵀ + a_l2 σ_2 u_2 v_2ᵀ + a_l3 σ_3 u_3 v_3ᵀ +
          a_l4 Σ_{j≥4} σ_j u_j v_jᵀ) is applied, c_max = 3. Zeros leave a site alone; 1/c_max
          everywhere is UltraEdit. `basis="gradient"` takes G·Kᵀ apart instead.
        - `factors`: A (out × r) and B (r × in) of every site (`ActionLayout`); `shift_limit` ·
          clip(A·B/√r, −1, 1) is added.

    Transition:
        The update is added to the sites, and the next `edits_per_step` requests of the stream are
        there to be edited. `split="policy"` draws a new stream in every episode. `validation` and
        `test` streams are for evaluation and closed: the reward is 0, `differentiable_step` raises,
        and a stream stays the same from one reset to the next until `reset(seed=...)` draws
        another.

    Reward:
        −[ Σ_{j=0..back_depth} decay^j (CE(rephrases_{t−j}) + λ KL(p_ref ‖ p_now on
        locality_{t−j})) + η Σ ‖ΔW‖² ] (Li et al. 2025, RLEdit), λ = `locality_weight`, η =
        `norm_weight`. CE and KL are means over answer tokens, then over requests. Where an edited
        model collapses, that is, computes what is not finite, the reward is −10⁶, observed numbers
        are 0 or at the bound, and coefficients, which have no update to stretch, leave the sites
        alone.

    End:
        `terminated` after `horizon` steps. Never truncated.

    Info:
        `edit_step`, `edits_done`, `is_success` (every request of the batch answered exactly), and
        of the batch right after its edit `reliability`, `tf_efficacy`, `generalization` and
        `locality` (both 0 on closed streams, and `locality` also where no request of the batch has
        locality prompts). All are finite.

    Arguments:
        task: `knowledge/factworld`, or another of the `knowledge` tasks.
        action: `coefficients` or `factors`.
        edits_per_step: Requests in a step.
        horizon: Steps in an episode.
        split: `policy`, `validation` or `test`.
        back_depth: How many earlier batches the reward looks back to.
        decay: Weight of a batch one step further back.
        locality_weight: λ.
        norm_weight: η.
        reference: What locality is measured from, `original` or `previous`.
        basis: `ultraedit` or `gradient`, for coefficients.
        max_coefficient: c_max.
        rank: r, for factors.
        shift_limit: Limit of every entry of an update, for factors.
        observation_bound: Limit of every observed number.
        micro_batch: Rewarded texts that go through the model at a time, at least one batch's
            rephrases: fewer take less memory, for the same reward. Of K candidates, K times as many
            do.
        journal_folder: Keeps the journal in files there, a step at a time: `reset` empties it,
            unless it restores a `checkpoint`. None keeps it in memory.
        render_mode: `rgb_array` or `ansi`.
        device: `cpu`, `cuda` or `cuda:N`.
        **task_arguments: What the task takes: `model`, `sites`, `dtype`, `step_size`, ….

    Raises:
        ValueError: An argument is out of range; the message names it.
        UnknownArgumentError: Neither environment nor task takes an argument.
        UnknownSiteError: A site matches no weight of the model.

    Example:
        >>> import gymnasium as gym, editgym
        >>> env = gym.make("LifelongLLMEdit-v0", horizon=2, edits_per_step=5, back_depth=1)
        >>> observation, info = env.reset(seed=0)
        >>> action = env.unwrapped.training_free_action()
        >>> observation, reward, terminated, truncated, info = env.step(action)
        >>> terminated, info["edits_done"]
        (False, 5.0)

    Version history:
        v0: The first version.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
    }

    def __init__(
        self,
        task: str = "knowledge/factworld",
        *,
        action: ActionForm = "coefficients",
        edits_per_step: int = 10,
        horizon: int = 20,
        split: StreamSplit = "policy",
        back_depth: int = 10,
        decay: float = 0.95,
        locality_weight: float = 0.6,
        norm_weight: float = 1e-4,
        reference: Reference = "original",
        basis: Basis = "ultraedit",
        max_coefficient: float = 3.0,
        rank: int = 4,
        shift_limit: float = 0.05,
        observation_bound: float = 10.0,
        micro_batch: int = 512,
        journal_folder: str | None = None,
        render_mode: str | None = None,
        device: str = "cpu",
        **task_arguments: Any,
    ) -> None:
        EzPickle.__init__(
            self,
            task,
            action=action,
            edits_per_step=edits_per_step,
            horizon=horizon,
            split=split,
            back_depth=back_depth,
            decay=decay,
            locality_weight=locality_weight,
            norm_weight=norm_weight,
            reference=reference,
            basis=basis,
            max_coefficient=max_coefficient,
            rank=rank,
            shift_limit=shift_limit,
            observation_bound=observation_bound,
            micro_batch=micro_batch,
            journal_folder=journal_folder,
            render_mode=render_mode,
            device=device,
            **task_arguments,
        )
        for name, value, choices in (
            ("action", action, get_args(ActionForm)),
            ("split", split, SPLITS),
            ("reference", reference, get_args(Reference)),
            ("basis", basis, get_args(Basis)),
            ("render_mode", render_mode, (None, *RENDER_MODES)),
        ):
            require(value in choices, name, value, f"one of {choices}")
        require(
            journal_folder is None or isinstance(journal_folder, str | Path),
            "journal_folder",
            journal_folder,
            "a path or None",
        )
        for name, count, least in (
            ("edits_per_step", edits_per_step, 1),
            ("horizon", horizon, 1),
            ("back_depth", back_depth, 0),
            ("micro_batch", micro_batch, 1),
        ):
            require(
                is_whole(count) and count >= least, name, count, f"{least} or more, a whole number"
            )
        for name, number in (
            ("locality_weight", locality_weight),
            ("norm_weight", norm_weight),
            ("decay", decay),
        ):
            require(is_finite(number) and number >= 0, name, number, "0 or more and finite")
        for name, number in (
            ("max_coefficient", max_coefficient),
            ("shift_limit", shift_limit),
            ("observation_bound", observation_bound),
        ):
            require(is_finite(number) and number > 0, name, number, "greater than 0 and finite")
        self.task: KnowledgeTask = task_for(
            KnowledgeTask, task, device, task_arguments, type(self).__init__
        )
        self.process = LifelongProcess(
            self.task,
            LifelongSettings(
                edits_per_step,
                horizon,
                split,
                basis,
                RewardWeights(
                    back_depth, decay, locality_weight, norm_weight, reference, micro_batch
                ),
            ),
        )
        if journal_folder is not None:
            self.process.decoder.resume(Path(journal_folder))
        self.layout = ActionLayout(tuple(site.shape for site in self.process.sites), rank)
        self.action_form = action
        self.max_coefficient = max_coefficient
        self.shift = Shift(shift_limit)
        size = (
            len(self.process.sites) * DIRECTIONS if action == "coefficients" else self.layout.size
        )
        self.action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self._action_shape = (size,)
        self._observer = StreamObserver(self.process, observation_bound)
        self.observation_space = self._observer.space
        self.render_mode = render_mode
        self._episode: StreamEpisode | None = None
        self._stream_seed: int | None = None
        self._over = True

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
        given = dict(options or {})
        state = given.pop("restore", None)
        if given:
            raise ValueError(
                f'options: {sorted(given)} are not known; the environment takes "restore" alone'
            )
        if state is not None:
            if seed is not None:
                raise ValueError(
                    "seed must be None where an episode is restored with its random state, got"
                    f" {seed}"
                )
            return self._restored(state)
        super().reset(seed=seed)
        if self._stream_seed is None or seed is not None or self.process.open:
            self._stream_seed = int(self.np_random.integers(2**63 - 1))
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

    def candidate_rewards(self, actions: NDArray[np.float32]) -> Tensor:
        """Rewards of K actions on the state that the stream is in, none of which is applied.

        Args:
            actions: (K, action size), coefficients in [−1, 1]; not checked here.

        Returns:
            (K,), on the task's device.

        Raises:
            ClosedStreamError: The split is for evaluation.
            FloatingPointError: The model has collapsed.
        """
        coefficients = self.max_coefficient * torch.from_numpy(actions.astype(np.float32)).to(
            self.task.device
        ).view(len(actions), len(self.process.sites), DIRECTIONS)
        return self.process.candidate_rewards(self.process.stretched(coefficients))

    def follow(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool, dict[str, Any]]:
        """`step` for agents that have asked `candidate_rewards` already: no reward is computed.

        Returns:
            Observation, whether the episode is over, and info, with `generalization` and `locality`
            0.

        Raises:
            ValueError, gymnasium.error.ResetNeeded: As `step`.
        """
        observation, _, terminated, _, info = self._step(action, rewarded=False)
        return observation, terminated, info

    def _step(
        self, action: NDArray[np.float32], rewarded: bool
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._check_running()
        flat = checked_action(action, self._action_shape, self.task.device)
        outcome = self.process.advance(self._entries(flat), rewarded)
        info = self._record(outcome)
        return self._observer(), float(outcome.reward), self._over, False, info

    def differentiable_step(self, action: Tensor) -> LifelongOutcome:
        """`step` with `outcome.reward` carrying gradients to `action`; the episode moves on as with
        `step`.

        Agents that emit factors for each site call `process.differentiable_step`.

        Args:
            action: Flat, on the task's device, in [−1, 1]; coefficients only, for clipped factors
                have no such step.

        Raises:
            ClosedStreamError: The split is for evaluation.
            ValueError: As `step`; or actions are factors.
            FloatingPointError: The model has collapsed.
            gymnasium.error.ResetNeeded: As `step`.
        """
        self._check_running()
        if self.action_form != "coefficients":
            raise ValueError(
                "differentiable_step: hand factors to env.unwrapped.process.differentiable_step"
            )
        checked_action(action.detach().cpu().numpy(), self._action_shape, self.task.device)
        coefficients = self.max_coefficient * action.view(len(self.process.sites), DIRECTIONS)
        outcome = self.process.differentiable_step(self.process.stretched(coefficients))
        self._record(outcome)
        return outcome

    def evaluate(self, journal: EditJournal) -> Evaluation:
        """The leaderboard's metrics of a journal on the current episode's stream, its curve and
        per-edit records.

        Raises:
            JournalError: The journal belongs to another model or stream.
            gymnasium.error.ResetNeeded: There was no reset.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before evaluate(): it draws the stream")
        return evaluate_stream(
            self.task, journal, self.process.stream.requests, self.process.settings.edits_per_step
        )

    def checkpoint(self) -> dict[str, Any]:
        """What `reset(options={"restore": state})` needs to go on with this episode, as tensors and
        plain values.

        The journal is not in it.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before checkpoint()")
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
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return render(self._episode, self.render_mode)

    def _restored(self, state: dict[str, Any]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        if not isinstance(state, dict) or not {"process", "stream_seed", "random"} <= state.keys():
            raise ValueError(f"restore must be what checkpoint() gave, got {type(state).__name__}")
        self.process.load_state_dict(state["process"])
        self.np_random.bit_generator.state = state["random"]
        self._stream_seed = state["stream_seed"]
        observation, info = self._begun()
        done = self.process.step_index
        return observation, info | {
            "edit_step": float(done),
            "edits_done": float(done * self.process.settings.edits_per_step),
        }

    def _begun(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """What `reset` returns, of the process as it is."""
        self._episode = StreamEpisode(self.task.name, self.process.settings.horizon)
        self._over = self.process.over
        return self._observer(), {"skipped": float(sum(self.process.stream.skipped.values()))}

    def _entries(self, flat: Tensor) -> list[SiteEdit]:
        """What an action applies; a site whose part of the action is zero is left alone."""
        sites = self.process.sites
        if self.action_form == "factors":
            return [
                SiteEdit(site.name, self.shift, _copied(update))
                for site, update in zip(sites, self.layout.unpack(flat), strict=True)
            ]
        coefficients = self.max_coefficient * flat.view(len(sites), DIRECTIONS)
        try:
            updates = self.process.stretched(coefficients)
        except FloatingPointError:  # the model has collapsed
            return []
        return [
            SiteEdit(site.name, Shift(), update)
            for site, row, update in zip(sites, coefficients, updates, strict=True)
            if bool(row.any())
        ]

    def _check_running(self) -> None:
        self._over = self._over or self.process.over  # the tensor API may have moved on
        if self._over:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")

    def _record(self, outcome: LifelongOutcome) -> dict[str, float]:
        done = self.process.step_index
        self._over = self.process.over
        info = {key: outcome.metrics.get(key, 0.0) for key in INFO_KEYS}
        info |= {
            "edit_step": float(done),
            "edits_done": float(done * self.process.settings.edits_per_step),
            "is_success": float(outcome.answered.all()),
        }
        assert self._episode is not None
        self._episode.record(float(outcome.reward.detach()), info)
        return dict(info)


def _copied(update: Update) -> Update:
    """An update that shares no memory with an action."""
    if isinstance(update, LowRankFactors):
        return LowRankFactors(update.a.clone(), update.b.clone(), update.scale, update.bound)
    return DenseUpdate(update.d.clone(), update.bound)
