"""What all debiasing agents share: the task of an environment, the start of an episode, and putting
another last layer in place.

They see the policy split, whose rewards the other agents see, with its labels and texts, and choose
on the validation split: the largest unbiased accuracy at no more than `tolerance` less general
accuracy; where nothing is better than no edit within that, the network stays as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from agents.configured import ConfiguredAgent
from agents.debiasing.last_layer import Head, HeadOfNetwork, Point, best_within
from agents.episodes import task_of
from agents.protocol import Access, Budget
from editgym.checks import Check, at_least, is_finite
from editgym.envs.protocol import open_env
from editgym.tasks.debiasing.task import DebiasingTask
from editgym.weights import EditableNetwork, EditJournal, ReplaceTensors

TOLERANCE = at_least(0)
_NO_EDIT = (
    "on validation data no candidate within the tolerance is better than no edit, and the network"
    " is left as it was"
)
WEIGHTINGS = Check(
    lambda v: (
        isinstance(v, list | tuple) and bool(v) and all(is_finite(one) and one >= 0 for one in v)
    ),
    "a list of finite numbers, 0 or more, at least one",
)


class DebiasingAgent(ConfiguredAgent):
    """An agent that looks at the network and data of a debiasing task; `learn` checks the task,
    `edit` does the work.

    Attributes:
        notes: What is to be said of the latest edit, in sentences.
    """

    notes: tuple[str, ...] = ()
    access: ClassVar[Access] = "data"

    def learn(self, env_spec: EnvSpec, budget: Budget, seed: int, out: Path | None = None) -> None:
        """Check the task; there is nothing to learn.

        Raises:
            Unsupported: It is not a debiasing task.
        """
        with closing(gym.make(env_spec)) as env:
            debiasing_task(env)
        self.settings = self.resolved(env_spec)

    def note_choice(self, best: object | None) -> None:
        """Say where no candidate was chosen."""
        self.notes = () if best is not None else (_NO_EDIT,)

    def warn_of_divergence(self, where: str) -> None:
        """Say that a fine-tuning goes nowhere from here on."""
        warnings.warn(
            f"{self.name} has diverged {where}: its weights are not finite, and what comes after is"
            " left out; give a smaller learning_rate",
            stacklevel=2,
        )


def debiasing_task(env: gym.Env) -> DebiasingTask:
    """The environment's task.

    Raises:
        Unsupported: It is not a debiasing task.
    """
    return task_of(env, DebiasingTask, "a debiasing task")


def start(env: gym.Env) -> tuple[DebiasingTask, EditableNetwork]:
    """Reset and return task and network of the episode."""
    env.reset()
    return debiasing_task(env), open_env(env).network


def best_head(
    task: DebiasingTask, own: HeadOfNetwork, heads: Sequence[Head], tolerance: float
) -> Head | None:
    """The best last layer on the validation split, within the tolerance; None for no edit."""
    general, unbiased = own.pair(task.labelled("validation"))

    def measure(head: Head) -> Point:
        return Point(head.accuracy(general), head.accuracy(unbiased))

    return best_within(measure(own.head), heads, measure, tolerance)


def replace_head(env: gym.Env, own: HeadOfNetwork, head: Head | None) -> EditJournal:
    """Put another last layer into the edited network; None for no edit."""
    network: EditableNetwork = open_env(env).network
    if head is not None:
        network.apply(ReplaceTensors(own.tensors(head)))
    return network.journal
