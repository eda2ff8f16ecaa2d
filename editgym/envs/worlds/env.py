"""The environment that MaskWorld and ShiftWorld share; they only choose the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from editgym.checks import is_finite, is_whole, require
from editgym.envs.arguments import checked_action, task_for
from editgym.envs.worlds.gradient import CostGradient, CostGradients
from editgym.envs.worlds.observation import WeightObserver, read_only_parameters
from editgym.envs.worlds.process import EditingProcess, RewardSettings, StepOutcome
from editgym.envs.worlds.rendering import RENDER_MODES, Episode, render
from editgym.metrics.evaluation import Evaluation
from editgym.tasks import Signal, Task
from editgym.weights import (
    ActionLayout,
    EditableNetwork,
    EditJournal,
    EditSite,
    Operator,
    Rank,
    SiteEdit,
)


class WeightEditing:
    """What the single and the vector environment have in common: arguments, spaces, process,
    checks.

    Attributes:
        task: Networks, data, reward terms and metrics.
        process: The decision process in torch: the tensor API.
        layout: How a flat action holds an update for every site.
    """

    def __init__(
        self,
        operator: Operator,
        candidates: int,
        shared_batch: bool,
        task: str,
        *,
        rank: Rank | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        signal: Signal = "probability",
        batch_size: int | None = None,
        episode_length: int = 1,
        probe_weight: float = 0.0,
        observe_task: bool = False,
        observe_parameters: Sequence[str] = (),
        observation_bound: float = 5.0,
        max_raw_observation: int = 65_536,
        projection_size: int = 1_024,
        device: str = "cpu",
        **task_arguments: Any,
    ) -> None:
        require(
            signal in ("probability", "accuracy"), "signal", signal, '"probability" or "accuracy"'
        )
        counts = {
            "episode_length": episode_length,
            "projection_size": projection_size,
            "num_envs": candidates,
            "batch_size": 1 if batch_size is None else batch_size,
        }
        for name, count in counts.items():
            require(is_whole(count) and count >= 1, name, count, "1 or more, a whole number")
        for name, weight in {"alpha": alpha, "beta": beta}.items():
            require(weight is None or is_finite(weight), name, weight, "a finite number or None")
        require(
            is_finite(probe_weight) and probe_weight >= 0,
            "probe_weight",
            probe_weight,
            "0 or more and finite",
        )
        require(
            is_finite(observation_bound) and observation_bound > 0,
            "observation_bound",
            observation_bound,
            "greater than 0 and finite",
        )
        self.task: Task = task_for(
            Task,  # type: ignore[type-abstract]
            task,
            device,
            task_arguments,
            WeightEditing.__init__,
        )
        self.operator = operator
        self.episode_length = episode_length
        defaults = self.task.rewards
        self.layout = ActionLayout(
            tuple(site.shape for site in self.task.networks[0].sites),
            defaults.rank if rank is None else rank,
        )
        self.rewards = RewardSettings(
            defaults.alpha if alpha is None else alpha,
            defaults.beta if beta is None else beta,
            signal,
            defaults.batch_size if batch_size is None else batch_size,
            shared_batch,
            probe_weight,
        )
        self.process = EditingProcess(self.task, operator, self.layout, self.rewards, candidates)
        self.cost_gradients = CostGradients(
            self.task, self.rewards.alpha, self.rewards.beta, self.process.probe_cost
        )
        self._read_only = read_only_parameters(self.task.networks, observe_parameters)
        shapes = [*self.layout.shapes, *((1, own.shape[1]) for own in self._read_only)]
        self.observer = WeightObserver(
            shapes,
            observation_bound,
            max_raw_observation,
            projection_size,
            len(self.task.goals[0].features) if observe_task else 0,
            self.task.device,
        )
        self.observe_task = observe_task
        self.edit_step = 0
        self.action_space = spaces.Box(-1.0, 1.0, (self.layout.size,), np.float32)

    @property
    def choices(self) -> dict[str, int]:
        """How many networks and goals an episode may have."""
        return {"network": len(self.task.networks), "goal": len(self.task.goals)}

    def observe(self) -> NDArray[np.float32]:
        """Observations of all candidates, (K, size), a new array."""
        features = self.process.features if self.observe_task else None
        weights = [
            *self.process.weights,
            *(own[self.process.network_index].unsqueeze(1) for own in self._read_only),
        ]
        if (
            self.process.uniform
        ):  # one row stands for all, which on a GPU saves most of a reset's transfer
            row = self.observer(
                [weight[:1] for weight in weights], None if features is None else features[:1]
            )
            return np.repeat(row.cpu().numpy(), self.process.candidates, axis=0)
        return self.observer(weights, features).cpu().numpy()

    def checked_actions(self, actions: object, shape: tuple[int, ...]) -> Tensor:
        """Actions as a float32 tensor on the device, (K, action size).

        Raises:
            ValueError: The shape is wrong, or a number is not finite or outside [−1, 1].
        """
        return checked_action(actions, shape, self.task.device).view(-1, self.layout.size)

    def start(self, options: dict[str, Any] | None) -> None:
        """Begin an episode; `options` may name the `network` and the `goal` by index.

        Raises:
            ValueError: An option is unknown or out of range.
        """
        chosen = dict(options or {})
        counts = self.choices
        for name, value in chosen.items():
            if name not in counts:
                raise ValueError(f'options: {name!r} is not known; use "network" and "goal"')
            if not (is_whole(value) and 0 <= value < counts[name]):
                raise ValueError(
                    f"options: {name} must be from 0 to {counts[name] - 1}, got {value!r}"
                )
        self.process.reset(chosen.get("network"), chosen.get("goal"))
        self.edit_step = 0

    def numbers(self, outcome: StepOutcome) -> dict[str, NDArray[np.float64]]:
        """The info of one step, every value (K,)."""
        rows: dict[str, Tensor] = {}
        for name in self.task.set_names:
            rows[f"{name}_accuracy"] = outcome.accuracy[name]
            rows[f"{name}_accuracy_before"] = outcome.accuracy_before[name]
        rows |= {"utility": outcome.utility, "edit": outcome.edit, "is_success": outcome.is_success}
        # Stacked, so that a GPU sends one tensor.
        together = torch.stack([row.detach().double() for row in rows.values()]).cpu().numpy()
        info = dict(zip(rows, together, strict=True))
        info["edit_step"] = np.full(self.process.candidates, float(self.edit_step))
        return info

    def journal_entries(self, outcome: StepOutcome, candidate: int, step: int) -> list[SiteEdit]:
        """What one candidate's step applied, as journal entries of that step."""
        sites = self.task.networks[0].sites
        return [
            SiteEdit(site.name, self.operator, update.candidate(candidate), step)
            for site, update in zip(sites, outcome.updates, strict=True)
        ]


class WeightEditingEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]], EzPickle):
    """One network under edit; see `MaskWorldEnv` and `ShiftWorldEnv` for the whole
    specification.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
    }

    def __init__(
        self, operator: Operator, task: str, render_mode: str | None, **arguments: Any
    ) -> None:
        require(
            render_mode is None or render_mode in RENDER_MODES,
            "render_mode",
            render_mode,
            f"one of {RENDER_MODES}",
        )
        self._common = WeightEditing(operator, 1, False, task, **arguments)
        self.task, self.process, self.layout = (
            self._common.task,
            self._common.process,
            self._common.layout,
        )
        self.observation_space = self._common.observer.space
        self.action_space = self._common.action_space
        self.render_mode = render_mode
        self.network: EditableNetwork = self.task.networks[0].fresh()
        self._episode: Episode | None = None
        self._over = True

    @property
    def episode_length(self) -> int:
        """Edits per episode."""
        return self._common.episode_length

    @property
    def choices(self) -> dict[str, int]:
        """How many networks and goals an episode may have, by their names in `options`."""
        return self._common.choices

    @property
    def operator(self) -> Operator:
        """How an update changes a site's matrix."""
        return self._common.operator

    @property
    def sites(self) -> tuple[EditSite, ...]:
        """What is edited."""
        return self.network.sites

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The current matrix at every site, each (out, in)."""
        return self.network.weights

    @property
    def journal(self) -> EditJournal:
        """The edits of the current episode."""
        return self.network.journal

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Restore the base weights, bitwise, and draw network and goal unless `options` names them.

        Args:
            seed: Starts all random streams of the environment anew.
            options: `{"network": i, "goal": j}`, each optional.
        """
        super().reset(seed=seed)
        if seed is not None or self._episode is None:
            self.process.seed([int(self.np_random.integers(2**63 - 1))])
        self._common.start(options)
        self.network = self.task.networks[int(self.process.network_index[0])].fresh()
        goal = self.task.goals[int(self.process.goal_index[0])]
        self._episode = Episode(
            f"{self.task.name}: {goal.label}", self.network, self.task.set_names
        )
        self._over = False
        return self._common.observe()[0], {
            "network": int(self.process.network_index[0]),
            "goal": int(self.process.goal_index[0]),
        }

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply one edit and score it on a fresh batch.

        Raises:
            ValueError: The action is not finite, out of range or of the wrong shape; nothing has
                changed then.
            gymnasium.error.ResetNeeded: The episode is over, or there was no reset.
        """
        if self._over:
            raise gym.error.ResetNeeded("the episode is over: call reset() before step()")
        actions = self._common.checked_actions(action, (self.layout.size,))
        _, reward, info = self._advance(actions, differentiable=False)
        return self._common.observe()[0], reward, self._over, False, info

    def differentiable_step(self, action: Tensor) -> StepOutcome:
        """`step` for agents that learn through the reward: `outcome.reward[0]` carries gradients to
        `action`.

        The network, its journal and the episode move on as with `step`.

        Args:
            action: Flat, (action size,), on the task's device, in [−1, 1].

        Raises:
            ValueError: As `step`; or the environment's signal has no gradient.
            gymnasium.error.ResetNeeded: As `step`.
        """
        if self._over:
            raise gym.error.ResetNeeded(
                "the episode is over: call reset() before differentiable_step()"
            )
        self._common.checked_actions(action.detach().cpu().numpy(), (self.layout.size,))
        return self._advance(action.unsqueeze(0), differentiable=True)[0]

    def cost_gradient(self, weights: Sequence[Tensor]) -> CostGradient:
        """Minus the reward with these matrices at the sites, and its gradient by them.

        The reward is that of the episode's network and goal, by the probability signal and over the
        policy split's reward sets, or 512 samples of a larger one, always the same. Nothing is
        applied; it counts one reward call.

        Args:
            weights: One matrix (out, in) per site, such as `weights`.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset, and so there is no goal.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before cost_gradient()")
        network, goal = int(self.process.network_index[0]), int(self.process.goal_index[0])
        return self._common.cost_gradients(network, goal, weights)

    def _advance(
        self, actions: Tensor, *, differentiable: bool
    ) -> tuple[StepOutcome, float, dict[str, float]]:
        # The network is what counts: it may have been undone or rolled back since the last step.
        self.process.weights = [weight.unsqueeze(0) for weight in self.network.weights]
        outcome = self.process.step(actions, differentiable=differentiable)
        self.network.apply(*self._common.journal_entries(outcome, 0, self._common.edit_step))
        self._common.edit_step += 1
        self._over = self._common.edit_step >= self._common.episode_length
        info = {key: float(value[0]) for key, value in self._common.numbers(outcome).items()}
        reward = float(outcome.reward[0].detach())
        assert self._episode is not None
        self._episode.record(reward, info)
        return outcome, reward, dict(info)

    def evaluate(self, journal: EditJournal) -> Evaluation:
        """The leaderboard's metrics of an edit on test data, for the goal of the current episode.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
            gymnasium.error.ResetNeeded: There was no reset, and so there is no goal.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before evaluate()")
        return Evaluation(self.task.evaluate(journal, int(self.process.goal_index[0])))

    def render(self) -> Any:
        """The episode so far: a frame (height, width, 3) uint8, or text."""
        if self.render_mode is None:
            gym.logger.warn('render() needs a render_mode: gym.make(..., render_mode="rgb_array")')
            return None
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return render(self._episode, self.render_mode)
