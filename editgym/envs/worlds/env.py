"""The environment that MaskWorld and ShiftWorld share; they only choose the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from editgym.envs.tensors import ordinary_tensors
from editgym.envs.worlds.common import CHECKS, WeightEditing
from editgym.envs.worlds.gradient import CostGradient, CostGradients
from editgym.envs.worlds.rendering import RENDER_MODES, Episode, render
from editgym.envs.worlds.scores import Scores
from editgym.metrics.evaluation import Evaluation
from editgym.tasks.unedited import unedited_accuracies
from editgym.weights import EditableNetwork, EditJournal, EditSite, Operator, SiteEdit


class WeightEditingEnv(gym.Env[NDArray[np.float32], NDArray[np.float32]], EzPickle):
    """One network under edit; see `MaskWorldEnv` and `ShiftWorldEnv` for the whole specification.

    The network is the one owner of the weights: a step has it apply one edit per site, and the
    reward is that of the weights that it then has.

    Attributes:
        task: Networks, data, reward terms and metrics.
        layout: How a flat action holds an update for every site.
        network: The network under edit; every episode begins with a fresh one.
        checks: What its arguments have to be, for who looks at them before it is made.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
    }
    checks = CHECKS

    def __init__(self, operator: Operator, *, render_mode: str | None, **arguments: Any) -> None:
        self._common = WeightEditing(operator, False, render_mode=render_mode, **arguments)
        self.task, self.layout = self._common.task, self._common.layout
        self.observation_space = self._common.observation_space
        self.action_space = self._common.action_space
        self.render_mode = render_mode
        self.network: EditableNetwork = self.task.networks[0].fresh()
        self._draws = self._common.scorer.draws(1)
        self._cost_gradients = CostGradients(self._common.scorer)
        self._episode: Episode | None = None
        self._edit_step = 0
        self._gained: Tensor | float = 0.0
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
        """Copies of the current matrix at every site, each (out, in)."""
        # Unedited ones are those of every environment with this task.
        return tuple(weight.clone() for weight in self.network.weights)

    @property
    def journal(self) -> EditJournal:
        """The edits of the current episode."""
        return self.network.journal

    @property
    def unedited(self) -> dict[str, float]:
        """The accuracies that the episode's network had before the edit, by reward set and over all
        of its data, such as `retain_accuracy`.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset, and so there is no episode.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before asking for unedited")
        return unedited_accuracies(self.task, *self._drawn())

    @ordinary_tensors()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Restore the base weights, bitwise, and draw network and goal unless `options` names them.

        Args:
            seed: Starts all random streams of the environment anew.
            options: `{"network": i, "goal": j}`, each optional; whole numbers, such as those of a
                reset's info.

        Raises:
            ValueError: An option is unknown or out of range; nothing has changed then.
        """
        chosen = self._common.chosen(options)
        super().reset(seed=seed)
        self._over = True  # until the new episode is whole
        if seed is not None or self._episode is None:
            self._draws.seed([int(self.np_random.integers(2**63 - 1))])
        self._draws.begin(**chosen)
        network, goal = self._drawn()
        self.network = self.task.networks[network].fresh()
        title = f"{self.task.name}: {self.task.goals[goal].label}"
        self._episode = Episode(title, self.network, self.task.set_names)
        self._edit_step, self._gained = 0, 0.0
        begun, observation = self._common.begun(self._draws), self._observe()
        self._over = False
        return observation, {key: value[0].item() for key, value in begun.items()}

    @ordinary_tensors()
    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply one edit and score it on a fresh batch.

        Raises:
            ValueError: The action is not finite, of the wrong shape, or out of range where that is
                an error; nothing has changed then.
            gymnasium.error.ResetNeeded: The episode is over, or there was no reset.
        """
        self._check_running("step")
        checked = self._common.checked_actions(action, (self.layout.size,))
        scores = self._advance(checked, differentiable=False)
        reward, info = self._record(scores)
        return self._observe(), reward, self._over, False, info

    @ordinary_tensors()
    def differentiable_step(self, action: Tensor) -> Scores:
        """`step` for agents that learn through the reward: `scores.reward[0]` carries gradients to
        `action`.

        The network, its journal and the episode move on as with `step`.

        Args:
            action: Flat, (action size,), on the task's device, in [−1, 1]; what is clipped has no
                gradient.

        Raises:
            ValueError: The action is not finite, of the wrong shape, or out of range where that is
                an error, or the environment's signal has no gradient; nothing has changed then.
            gymnasium.error.ResetNeeded: The episode is over, or there was no reset.
        """
        self._check_running("differentiable_step")
        self._common.checked_actions(action.detach(), (self.layout.size,))
        self._common.scorer.check_differentiable()
        scores = self._advance(self._common.within_box(action), differentiable=True)
        self._record(scores)
        return scores

    @ordinary_tensors()
    def cost_gradient(self, weights: Sequence[Tensor]) -> CostGradient:
        """Minus V with these matrices at the sites, and its gradient by them.

        V, the weighted terms of the reward, is that of the episode's network and goal, by the
        probability signal and over the policy split's reward sets, or 512 samples of a larger one,
        always the same; what no edit has is not taken off. Nothing is applied; it counts one reward
        call.

        Args:
            weights: One matrix (out, in) per site, such as `weights`.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset, and so there is no goal.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before cost_gradient()")
        return self._cost_gradients(*self._drawn(), weights)

    @ordinary_tensors()
    def evaluate(self, journal: EditJournal) -> Evaluation:
        """The leaderboard's metrics of an edit on test data, for the goal of the current episode.

        Raises:
            JournalError: The journal belongs to none of the task's networks.
            ValueError: One of `metrics` has the name of another, or returns no finite number.
            gymnasium.error.ResetNeeded: There was no reset, and so there is no goal.
        """
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before evaluate()")
        return self._common.evaluate(journal, self._drawn()[1])

    def render(self) -> Any:
        """The episode so far: a frame (height, width, 3) uint8, or text."""
        if self.render_mode is None:
            gym.logger.warn('render() needs a render_mode: gym.make(..., render_mode="rgb_array")')
            return None
        if self._episode is None:
            raise gym.error.ResetNeeded("call reset() before render()")
        return render(self._episode, self.render_mode)

    # --- inside -----------------------------------------------------------------------------------

    def _drawn(self) -> tuple[int, int]:
        """Indices of the episode's network and goal."""
        return int(self._draws.network_index[0]), int(self._draws.goal_index[0])

    def _check_running(self, method: str) -> None:
        if self._over:
            raise gym.error.ResetNeeded(
                f"no episode has begun, or it is over: call reset() before {method}()"
            )

    def _observe(self) -> NDArray[np.float32]:
        weights = [weight.unsqueeze(0) for weight in self.network.weights]
        return self._common.observe(weights, self._draws)[0]

    def _advance(self, action: Tensor, *, differentiable: bool) -> Scores:
        """Edit the network and score it; where scoring is interrupted nothing has changed."""
        entries = [
            SiteEdit(site.name, self.operator, update, self._edit_step)
            for site, update in zip(self.sites, self.layout.unpack(action), strict=True)
        ]
        with torch.set_grad_enabled(differentiable):
            edited = self.network.apply_tracked(*entries)
            try:
                weights = [w.unsqueeze(0) for w in edited]
                return self._common.scorer.score(weights, self._draws, self._gained)
            except BaseException:  # Ctrl-C too
                self.network.undo()
                raise

    def _record(self, scores: Scores) -> tuple[float, dict[str, float]]:
        """Move the episode on by a step: its reward and info."""
        self._edit_step += 1
        self._gained = scores.gain
        self._over = self._edit_step >= self.episode_length
        numbers = self._common.numbers(scores, self._edit_step, self._draws)
        info = {key: float(value[0]) for key, value in numbers.items()}
        reward = float(scores.reward[0].detach())
        assert self._episode is not None
        self._episode.record(reward, info)
        return reward, dict(info)
