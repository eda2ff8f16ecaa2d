"""K candidates of a weight-editing environment stepped at once, by Gymnasium's vector interface."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from editgym.checks import optional, whole
from editgym.envs.tensors import ordinary_tensors
from editgym.envs.worlds.autoreset import checked_autoreset_mode, without_reset_mask
from editgym.envs.worlds.candidates import Candidates, StepOutcome
from editgym.envs.worlds.common import WeightEditing
from editgym.envs.worlds.rendering import RENDER_MODES, Episode, render
from editgym.envs.worlds.seeding import generator_of_each, seed_of_each
from editgym.weights import EditJournal, Operator, SiteEdit


class WeightEditingVectorEnv(VectorEnv):
    """K candidates in one process on one device; what `gym.make_vec` returns for MaskWorld and
    ShiftWorld.

    Candidate i, seeded `seed + i`, goes through what a single environment with that seed goes
    through. All episodes end together, and `max_episode_steps` truncates them as `TimeLimit` does a
    single one. Autoreset is Gymnasium's. `SAME_STEP`, the default: on the last step of an episode
    the observation is the next episode's first, `infos["final_obs"]` and `infos["final_info"]` hold
    what the episode ended with. `NEXT_STEP`: the step after the last one takes no action and
    resets, with reward 0. `DISABLED`: whoever steps calls `reset` too, with
    `options={"reset_mask": ...}` where that is the habit, a mask of all candidates.

    Attributes:
        autoreset_mode: What `metadata["autoreset_mode"]` is too.
        task: Networks, data, reward terms and metrics.
        layout: How a flat action holds an update for every site.
        candidates: The K candidates' weights, which are edited and scored there. It is the tensor
            API: rewards and infos that stay on the device, and gradients.
    """

    metadata = {  # noqa: RUF012 - Gymnasium's own form
        "render_modes": list(RENDER_MODES),
        "render_fps": 2,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        operator: Operator,
        *,
        num_envs: int,
        render_mode: str | None,
        shared_batch: bool,
        max_episode_steps: int | None,
        autoreset_mode: str | AutoresetMode,
        **arguments: Any,
    ) -> None:
        whole(1)("num_envs", num_envs)
        optional(whole(1))("max_episode_steps", max_episode_steps)
        self.autoreset_mode = checked_autoreset_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._common = WeightEditing(operator, shared_batch, render_mode=render_mode, **arguments)
        self.task, self.layout = self._common.task, self._common.layout
        self.candidates = Candidates(self._common.scorer, operator, self.layout, num_envs)
        self.num_envs, self.render_mode, self._most_steps = num_envs, render_mode, max_episode_steps
        self.single_observation_space = self._common.observation_space
        self.single_action_space = self._common.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._history: list[
            tuple[StepOutcome, NDArray[np.float64], dict[str, NDArray[np.float64]]]
        ] = []
        self._started_on = self.candidates.network_index, self.candidates.goal_index
        self._edit_step = 0
        self._over = True
        self._random: dict[int, tuple[np.random.Generator, int]] = {}  # with its seed
        self._spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What `gym.make_vec` made it of; it can be written as JSON."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None and isinstance(spec.kwargs.get("autoreset_mode"), AutoresetMode):
            name = spec.kwargs["autoreset_mode"].name.lower()
            spec = replace(spec, kwargs=spec.kwargs | {"autoreset_mode": name})
        self._spec = spec

    @property  # type: ignore[override]
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The candidates' generators, from which a seed's random stream starts.

        Set to a generator for each candidate, or to one that theirs are spawned from, it starts
        every candidate's random stream anew; their seeds are then −1, unknown.
        """
        return tuple(generator for generator, _ in self._seeded())

    @np_random.setter
    def np_random(self, value: np.random.Generator | Sequence[np.random.Generator]) -> None:
        own = generator_of_each(value, self.num_envs)
        self._start({i: (generator, -1) for i, generator in enumerate(own)})

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The candidates' seeds."""
        return tuple(seed for _, seed in self._seeded())

    @ordinary_tensors()
    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode of every candidate.

        Args:
            seed: Candidate i is seeded `seed + i`, or by entry i of a sequence; None goes on as
                before.
            options: `{"network": i, "goal": j}` for all candidates, each optional, whole numbers;
                and `"reset_mask"`, (K,) of bool, where autoreset is disabled.

        Raises:
            ValueError: An option, a seed or the number of seeds is not as it has to be; nothing has
                changed then.
            gymnasium.error.Error: A seed is negative; nothing has changed then.
        """
        options = without_reset_mask(options, self.num_envs, self.autoreset_mode)
        chosen = self._common.chosen(options)
        self._seeded(seed_of_each(seed, self.num_envs))
        begun = self._begin(chosen)
        self._forget_history()
        return begun

    @ordinary_tensors()
    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Apply one edit to every candidate.

        Raises:
            ValueError: An action is not finite, of the wrong shape, or out of range where that is
                an error; nothing has changed then.
            gymnasium.error.ResetNeeded: There was no reset, none after the last step where
                autoreset is disabled, or the last one was interrupted.
        """
        if not self._begun:
            raise gym.error.ResetNeeded("call reset() before step()")
        if self._over:
            if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
                raise gym.error.ResetNeeded("the episodes are over: call reset() before step()")
            never = np.zeros(self.num_envs, dtype=np.bool_)
            observations, infos = self._begin({})
            return observations, np.zeros(self.num_envs), never, never.copy(), infos
        checked = self._common.checked_actions(actions, (self.num_envs, self.layout.size))
        if self._edit_step == 0:  # the finished episode's was kept for `journal` and `render`
            self._forget_history()
        outcome = self.candidates.step(checked)
        self._edit_step += 1
        rewards = outcome.reward.double().cpu().numpy()
        numbers = self._common.numbers(outcome, self._edit_step, self.candidates.draws)
        self._history.append((outcome, rewards.copy(), copy.deepcopy(numbers)))
        observations, infos = self._observe(), _masked(numbers)
        over = self._edit_step >= self._common.episode_length
        cut = self._most_steps is not None and self._edit_step >= self._most_steps
        self._over = over or cut
        if self._over and self.autoreset_mode is AutoresetMode.SAME_STEP:
            final = np.empty(self.num_envs, dtype=object)
            final[:] = list(observations)
            observations, fresh = self._begin({})
            infos = fresh | _masked({"final_obs": final, "final_info": infos})
        return (
            observations,
            rewards,
            np.full(self.num_envs, over),
            np.full(self.num_envs, cut),
            infos,
        )

    def journal(self, candidate: int) -> EditJournal:
        """The edits of one candidate's episode; after its last step, until the next one, those of
        the whole episode.

        Raises:
            IndexError: There is no such candidate.
        """
        if not 0 <= candidate < self.num_envs:
            raise IndexError(f"candidate must be from 0 to {self.num_envs - 1}, got {candidate}")
        network = self.task.networks[int(self._started_on[0][candidate])]
        journal = EditJournal(network.base_hash)
        for step, (outcome, _, _) in enumerate(self._history):
            journal.append(
                *(
                    SiteEdit(site.name, self._common.operator, update.candidate(candidate), step)
                    for site, update in zip(network.sites, outcome.updates, strict=True)
                )
            )
        return journal

    def render(self) -> tuple[Any, ...] | None:
        """One frame (height, width, 3) uint8, or one text, per candidate: its episode so far, or
        the finished one.

        Raises:
            gymnasium.error.ResetNeeded: There was no reset.
        """
        if self.render_mode is None:
            gym.logger.warn(
                'render() needs a render_mode: gym.make_vec(..., render_mode="rgb_array")'
            )
            return None
        if not self._begun:
            raise gym.error.ResetNeeded("call reset() before render()")
        return tuple(render(self._episode(i), self.render_mode) for i in range(self.num_envs))

    def _episode(self, candidate: int) -> Episode:
        network = self.task.networks[int(self._started_on[0][candidate])].fresh()
        network.replay(self.journal(candidate))
        goal = self.task.goals[int(self._started_on[1][candidate])]
        episode = Episode(f"{self.task.name}: {goal.label}", network, self.task.set_names)
        for _, rewards, numbers in self._history:
            episode.record(
                float(rewards[candidate]), {k: float(v[candidate]) for k, v in numbers.items()}
            )
        return episode

    @property
    def _begun(self) -> bool:
        return bool(self.candidates.weights)

    def _seeded(
        self, seeds: Sequence[int | None] | None = None
    ) -> list[tuple[np.random.Generator, int]]:
        """Every candidate's generator and seed, a new one where there is none yet or `seeds` has
        one, with which its random stream starts anew.
        """
        fresh = {
            i: gym.utils.seeding.np_random(own)
            for i, own in enumerate(seeds or [None] * self.num_envs)
            if own is not None or i not in self._random
        }
        if fresh:
            self._start(fresh)
        return [self._random[i] for i in range(self.num_envs)]

    def _start(self, fresh: dict[int, tuple[np.random.Generator, int]]) -> None:
        """Start the random streams of some candidates anew, from generators with their seeds."""
        keys = {i: int(generator.integers(2**63 - 1)) for i, (generator, _) in fresh.items()}
        self.candidates.seed([keys.get(i) for i in range(self.num_envs)])
        self._random |= fresh

    def _begin(self, chosen: dict[str, int]) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self._over = True  # until the new episodes are whole
        self.candidates.reset(**chosen)
        begun = self._observe(), _masked(self._common.begun(self.candidates.draws))
        self._edit_step, self._over = 0, False
        return begun

    def _observe(self) -> NDArray[np.float32]:
        now = self.candidates
        return self._common.observe(now.weights, now.draws, now.uniform)

    def _forget_history(self) -> None:
        self._history = []
        self._started_on = self.candidates.network_index, self.candidates.goal_index


def _masked(values: dict[str, Any]) -> dict[str, Any]:
    """Gymnasium's form of vector infos: every key has a mask `_key` of the candidates that it holds
    for.
    """
    number = len(next(value for value in values.values() if isinstance(value, np.ndarray)))
    return values | {f"_{key}": np.ones(number, dtype=np.bool_) for key in values}
