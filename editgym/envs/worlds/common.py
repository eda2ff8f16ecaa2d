"""What the single and the vector environment of a world have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from editgym.checks import (
    Check,
    above,
    as_whole,
    at_least,
    is_finite,
    one_of,
    optional,
    require,
    whole,
)
from editgym.envs.arguments import OutOfRange, checked_action, checked_options, task_for
from editgym.envs.tensors import ordinary_tensors
from editgym.envs.worlds.draws import Draws, check_goals
from editgym.envs.worlds.observation import WeightObserver, read_only_parameters
from editgym.envs.worlds.own_metrics import measured, own_metrics
from editgym.envs.worlds.rendering import RENDER_MODES
from editgym.envs.worlds.reward import Scorer
from editgym.envs.worlds.scores import RewardKind, RewardSettings, Scores
from editgym.metrics.evaluation import Evaluation
from editgym.tasks import Signal, Task
from editgym.weights import ActionLayout, EditJournal, Operator, Origin, Rank

# "auto": what suits the sizes and what can differ; None: the task's own.
RankChoice = Rank | Literal["auto"] | None
Observed = Literal["auto", "weights"]

MOST_FULL = 4_096  # numbers in the edited matrices together, up to which an action is D itself
_FACTORS = 4  # the rank above, where the task's own is "full"
_FINITE_OR_NONE = Check(lambda v: v is None or is_finite(v), "a finite number or None")
_FLAG = Check(lambda v: isinstance(v, bool), "True or False")
CHECKS: Mapping[str, Check] = {
    "render_mode": Check(lambda v: v is None or v in RENDER_MODES, f"one of {RENDER_MODES}"),
    "signal": Check(lambda v: v in ("probability", "accuracy"), '"probability" or "accuracy"'),
    "episode_length": whole(1),
    "max_raw_observation": whole(0),
    "projection_size": whole(1),
    "batch_size": optional(whole(1)),
    "alpha": _FINITE_OR_NONE,
    "beta": _FINITE_OR_NONE,
    "probe_weight": at_least(0),
    "relearn_weight": at_least(0),
    "observation_bound": above(0),
    "origin": one_of("lora", "zero"),
    "reward": one_of("improvement", "absolute"),
    "observe": one_of("auto", "weights"),
    "out_of_range": one_of("clip", "error"),
    **dict.fromkeys(("uniform_info", "observe_task", "shared_batch"), _FLAG),
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

    @ordinary_tensors()
    def __init__(
        self,
        operator: Operator,
        shared_batch: bool,
        *,
        task: str,
        render_mode: str | None,
        rank: RankChoice,
        origin: Origin,
        reward: RewardKind,
        observe: Observed,
        out_of_range: OutOfRange,
        uniform_info: bool,
        alpha: float | None,
        beta: float | None,
        signal: Signal,
        batch_size: int | None,
        episode_length: int,
        probe_weight: float,
        relearn_weight: float,
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
        check_goals(self.task)
        self.operator, self.episode_length = operator, episode_length
        self._out_of_range, self._uniform_info = out_of_range, uniform_info
        self._own_metrics = own_metrics(metrics)
        defaults = self.task.rewards
        shapes = tuple(site.shape for site in self.task.networks[0].sites)
        self.layout = ActionLayout(shapes, chosen_rank(rank, shapes, defaults.rank), origin)
        rewards = RewardSettings(
            defaults.alpha if alpha is None else alpha,
            defaults.beta if beta is None else beta,
            signal,
            defaults.batch_size if batch_size is None else batch_size,
            shared_batch,
            probe_weight,
            relearn_weight,
            reward,
        )
        self.scorer = Scorer(self.task, rewards)
        self._read_only = read_only_parameters(self.task.networks, observe_parameters)
        auto, several = observe == "auto", len(self.task.networks) > 1
        self._observe_weights = not auto or several or episode_length > 1
        self._observe_task = observe_task or (auto and len(self.task.goals) > 1)
        self._observer = WeightObserver(
            [
                *(self.layout.shapes if self._observe_weights else ()),
                *((1, own.shape[1]) for own in self._read_only),
            ],
            observation_bound,
            max_raw_observation,
            projection_size,
            len(self.task.goals[0].features) if self._observe_task else 0,
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
            ValueError: An option is unknown or out of range, or they are no options by name.
        """
        chosen: dict[str, int] = {}
        for name, value in checked_options(options).items():
            if name not in self.choices:
                raise ValueError(f'options: {name!r} is not known; use "network" and "goal"')
            most, index = self.choices[name] - 1, as_whole(value)
            in_range = index is not None and 0 <= index <= most
            require(in_range, f"options: {name}", value, f"a whole number from 0 to {most}")
            chosen[name] = cast(int, index)
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
        count = len(weights[0])
        if self._observer.blank:
            return self._observer.constant(count)
        features = draws.features if self._observe_task else None
        shown = weights if self._observe_weights else ()
        seen = [*shown, *(own[draws.network_index].unsqueeze(1) for own in self._read_only)]
        if not uniform:
            return self._observer(seen, features).cpu().numpy()
        # One row stands for all, which on a GPU saves most of a reset's transfer.
        row = self._observer([w[:1] for w in seen], None if features is None else features[:1])
        return np.repeat(row.cpu().numpy(), count, axis=0)

    def checked_actions(self, actions: object, shape: tuple[int, ...]) -> Tensor:
        """Actions as a float32 tensor of this shape on the device.

        Raises:
            ValueError: The shape is wrong, or a number is not finite, or outside [−1, 1] where that
                is an error.
        """
        return checked_action(actions, shape, self.task.device, self._out_of_range)

    def within_box(self, action: Tensor) -> Tensor:
        """A checked action as it is applied, with its gradients."""
        return action.clamp(-1, 1) if self._out_of_range == "clip" else action

    def evaluate(self, journal: EditJournal, goal: int) -> Evaluation:
        """The task's metrics of an edit on test data, and the user's own.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
            ValueError: A metric of the user's has the name of another, or returns no finite number.
        """
        known = self.task.evaluate(journal, goal)
        return Evaluation(known | measured(self._own_metrics, self.task, journal, goal, known))

    def begun(self, draws: Draws) -> dict[str, NDArray[Any]]:
        """The info of a reset, every value (K,): which network and goal were drawn, and with
        `uniform_info` the rest of what a step's info has, of the network before any edit.
        """
        if self._uniform_info:
            return self.numbers(self.scorer.unedited(draws), 0, draws)
        drawn = {"network": draws.network_index, "goal": draws.goal_index}
        return {name: index.cpu().numpy().copy() for name, index in drawn.items()}

    def numbers(
        self, scores: Scores, edit_step: int, draws: Draws
    ) -> dict[str, NDArray[np.float64]]:
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
        if self._uniform_info:
            info["network"] = draws.network_index.double().numpy()
            info["goal"] = draws.goal_index.cpu().double().numpy()
        return info


def chosen_rank(rank: RankChoice, shapes: Sequence[tuple[int, int]], own: Rank) -> Rank:
    """The rank of edits.

    Args:
        rank: What is asked for: a rank; None for the task's; `"auto"` for `"full"` up to
            `MOST_FULL` numbers, and above that the task's, or 4 where this is `"full"` too.
        shapes: (out, in) of every site.
        own: The task's.
    """
    if rank is None:
        return own
    if rank != "auto":
        return rank
    if sum(rows * columns for rows, columns in shapes) <= MOST_FULL:
        return "full"
    return min(_FACTORS, *map(min, shapes)) if own == "full" else own
