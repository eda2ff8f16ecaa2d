"""What the single and the vector environment of a world have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from editgym.checks import Check, above, at_least, is_finite, optional, whole
from editgym.envs.arguments import checked_action, task_for
from editgym.envs.worlds.draws import Draws
from editgym.envs.worlds.observation import WeightObserver, read_only_parameters
from editgym.envs.worlds.own_metrics import measured, own_metrics
from editgym.envs.worlds.rendering import RENDER_MODES
from editgym.envs.worlds.reward import RewardSettings, Scorer, Scores
from editgym.metrics.evaluation import Evaluation
from editgym.tasks import Signal, Task
from editgym.weights import ActionLayout, EditJournal, Operator, Rank

_FINITE_OR_NONE = Check(lambda v: v is None or is_finite(v), "a finite number or None")
CHECKS: Mapping[str, Check] = {
    "render_mode": Check(lambda v: v is None or v in RENDER_MODES, f"one of {RENDER_MODES}"),
    "signal": Check(lambda v: v in ("probability", "accuracy"), '"probability" or "accuracy"'),
    "episode_length": whole(1),
    "projection_size": whole(1),
    "batch_size": optional(whole(1)),
    "alpha": _FINITE_OR_NONE,
    "beta": _FINITE_OR_NONE,
    "probe_weight": at_least(0),
    "observation_bound": above(0),
}


class WeightEditing:
    """A world's arguments, checked, and what follows from them: task, spaces, scorer, observations.

    It holds nothing that a step changes. `MaskWorldEnv` tells what the arguments are.

    Attributes:
        task: Networks, data, reward terms and metrics.
        operator: How an update changes a site's matrix.
        layout: How a flat action holds an update for every site.
        scorer: The reward.
        episode_length: Edits per episode.
        action_space: A single environment's.
        observation_space: A single environment's.
    """

    def __init__(
        self,
        operator: Operator,
        shared_batch: bool,
        *,
        task: str,
        render_mode: str | None,
        rank: Rank | None,
        alpha: float | None,
        beta: float | None,
        signal: Signal,
        batch_size: int | None,
        episode_length: int,
        probe_weight: float,
        metrics: Sequence[str],
        observe_task: bool,
        observe_parameters: Sequence[str],
        observation_bound: float,
        max_raw_observation: int,
        projection_size: int,
        device: str,
        **task_arguments: Any,
    ) -> None:
        given = locals()
        for name, check in CHECKS.items():
            check(name, given[name])
        self.task: Task = task_for(
            Task,  # type: ignore[type-abstract]
            task,
            device,
            task_arguments,
            WeightEditing.__init__,
        )
        self.operator, self.episode_length = operator, episode_length
        self._own_metrics = own_metrics(metrics)
        defaults = self.task.rewards
        self.layout = ActionLayout(
            tuple(site.shape for site in self.task.networks[0].sites),
            defaults.rank if rank is None else rank,
        )
        rewards = RewardSettings(
            defaults.alpha if alpha is None else alpha,
            defaults.beta if beta is None else beta,
            signal,
            defaults.batch_size if batch_size is None else batch_size,
            shared_batch,
            probe_weight,
        )
        self.scorer = Scorer(self.task, rewards)
        self._read_only = read_only_parameters(self.task.networks, observe_parameters)
        self._observe_task = observe_task
        self._observer = WeightObserver(
            [*self.layout.shapes, *((1, own.shape[1]) for own in self._read_only)],
            observation_bound,
            max_raw_observation,
            projection_size,
            len(self.task.goals[0].features) if observe_task else 0,
            self.task.device,
        )
        self.observation_space = self._observer.space
        self.action_space = spaces.Box(-1.0, 1.0, (self.layout.size,), np.float32)

    @property
    def choices(self) -> dict[str, int]:
        """How many networks and goals an episode may have."""
        return {"network": len(self.task.networks), "goal": len(self.task.goals)}

    def chosen(self, options: dict[str, Any] | None) -> dict[str, int]:
        """What the `options` of a reset name, by index: `network`, `goal`, both or none.

        Raises:
            ValueError: An option is unknown or out of range.
        """
        chosen = dict(options or {})
        for name, value in chosen.items():
            if name not in self.choices:
                raise ValueError(f'options: {name!r} is not known; use "network" and "goal"')
            in_range = whole(0).valid(value) and value < self.choices[name]
            if not in_range:
                raise ValueError(
                    f"options: {name} must be from 0 to {self.choices[name] - 1}, got {value!r}"
                )
        return chosen

    def observe(
        self, weights: Sequence[Tensor], draws: Draws, uniform: bool = False
    ) -> NDArray[np.float32]:
        """Observations of K candidates, (K, size), a new array.

        Args:
            weights: The current matrices, (K, out, in) per site.
            draws: Which network and goal each candidate has.
            uniform: Whether all candidates are in the same state.
        """
        features = draws.features if self._observe_task else None
        seen = [*weights, *(own[draws.network_index].unsqueeze(1) for own in self._read_only)]
        if not uniform:
            return self._observer(seen, features).cpu().numpy()
        # One row stands for all, which on a GPU saves most of a reset's transfer.
        row = self._observer([w[:1] for w in seen], None if features is None else features[:1])
        return np.repeat(row.cpu().numpy(), len(weights[0]), axis=0)

    def checked_actions(self, actions: object, shape: tuple[int, ...]) -> Tensor:
        """Actions as a float32 tensor of this shape on the device.

        Raises:
            ValueError: The shape is wrong, or a number is not finite or outside [−1, 1].
        """
        return checked_action(actions, shape, self.task.device)

    def evaluate(self, journal: EditJournal, goal: int) -> Evaluation:
        """The task's metrics of an edit on test data, and the user's own.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
            ValueError: A metric of the user's has the name of another, or returns no finite number.
        """
        known = self.task.evaluate(journal, goal)
        return Evaluation(known | measured(self._own_metrics, self.task, journal, goal, known))

    def numbers(self, scores: Scores, edit_step: int) -> dict[str, NDArray[np.float64]]:
        """The info of one step, every value (K,)."""
        rows: dict[str, Tensor] = {}
        for name in self.task.set_names:
            rows[f"{name}_accuracy"] = scores.accuracy[name]
            rows[f"{name}_accuracy_before"] = scores.accuracy_before[name]
        rows |= {"utility": scores.utility, "edit": scores.edit, "is_success": scores.is_success}
        # Stacked, so that a GPU sends one tensor.
        together = torch.stack([row.detach().double() for row in rows.values()]).cpu().numpy()
        info = dict(zip(rows, together, strict=True))
        info["edit_step"] = np.full(together.shape[1], float(edit_step))
        return info
