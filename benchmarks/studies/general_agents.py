"""Who learns once and edits many in the study of general editors, who learns anew for every edit,
and where.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

import editgym  # noqa: F401 - registers the environments
from agents.catalogue import make_agent
from agents.protocol import Agent, Budget
from agents.rl.agent import SB3Agent
from agents.rl.general_editor import GeneralEditor
from agents.rl.gradient_editor import GradientEditor

Learner = SB3Agent | GradientEditor
WORLDS = ("MaskWorld-v0", "ShiftWorld-v0", "MaskWorld-v1", "ShiftWorld-v1")
TRAIN_CLASSES, TEST_CLASSES, TRAIN_NETWORKS = tuple(range(7)), (7, 8, 9), tuple(range(10, 22))
MORE_NETWORKS = tuple(range(10, 50))
GENERAL_CALLS, ENTRY_CALLS = 102_400, 327_680
GRADIENT_STEPS, GRADIENT_BATCH = 3_500, 8


HEAD_SEEN: Mapping[str, Any] = {"observe_parameters": ["fc3.weight"]}
_ALL_SEEN: Mapping[str, Any] = {
    "observe_parameters": ["fc3.weight", "fc2.bias", "fc1.bias"],
    "observe": "weights",
    "max_raw_observation": 8_192,
}


@dataclass(frozen=True)
class General:
    """An agent that learns once and edits many.

    Attributes:
        make: What makes the agent, untrained, for a world.
        version: The version of the worlds that it is for.
        networks: The numbers of the networks that it learns on.
        seen: What it observes of the network beside the edited matrix, and how.
        calls: The number of rewards that it learns from; None where the command line says it.
    """

    make: Callable[[str], Learner]
    version: str
    networks: Sequence[int] = TRAIN_NETWORKS
    seen: Mapping[str, Any] = field(default_factory=lambda: HEAD_SEEN)
    calls: int | None = None


def _by_gradient(networks: Sequence[int]) -> General:
    return General(
        lambda _: GradientEditor(steps=GRADIENT_STEPS, batch=GRADIENT_BATCH),
        "v1",
        networks,
        _ALL_SEEN,
        GRADIENT_STEPS * GRADIENT_BATCH,
    )


# What all candidates of a network and a class teach is computed for each of the 84 pairs once, so
# that large rollouts cost little more than small ones.
_OF_ENTRIES: Mapping[str, Any] = {
    "hidden": 16,
    "learning_rate": 3e-3,
    "rollout": 1_024,
    "batch_size": 1_024,
}
GENERAL: Mapping[str, General] = {
    "general editor": General(lambda _: GeneralEditor("ppo"), "v0"),
    # An ordinary policy sees all numbers: a sketch of them would bury the goal.
    "ordinary policy": General(lambda _: SB3Agent("ppo", sketch=0), "v0"),
    "general editor of every weight": General(
        lambda world: GeneralEditor("ppo", signed=not world.startswith("Mask"), **_OF_ENTRIES),
        "v1",
        seen=_ALL_SEEN,
        calls=ENTRY_CALLS,
    ),
    "gradient editor": _by_gradient(TRAIN_NETWORKS),
    "gradient editor of 40 networks": _by_gradient(MORE_NETWORKS),
}


@dataclass(frozen=True)
class Single:
    """An agent that learns anew for every edit.

    Attributes:
        agent: Its name in the catalogue.
        calls: The number of rewards that it learns from, for every edit.
        version: The version of the worlds that it is for.
        seen: What it observes beside the class; nothing else can differ.
    """

    agent: str
    calls: int
    version: str = "v1"
    seen: Mapping[str, Any] = field(default_factory=dict)

    def learned(self, world: str, network: int, digit: int, seed: int) -> Agent:
        """The agent, after it has learned to edit a network for a class."""
        agent = make_agent(self.agent)
        spec = general_spec(world, [digit], [network], self.seen)
        agent.learn(spec, Budget(reward_calls=self.calls), seed)
        return agent


SINGLE: Mapping[str, Single] = {
    "PPO for each": Single("ppo", 40_960, "v0", HEAD_SEEN),
    **{f"PPO for each ({calls})": Single("ppo", calls) for calls in (1_024, 4_096)},
    **{f"CMA-ES for each ({calls})": Single("cmaes", calls) for calls in (256, 1_024, 4_096)},
}


def general_spec(
    world: str,
    goals: Sequence[int],
    networks: Sequence[int],
    seen: Mapping[str, Any] = HEAD_SEEN,
    **arguments: Any,
) -> EnvSpec:
    """A world in which a policy sees the class to forget and what `seen` says."""
    spec = copy.deepcopy(gym.spec(world))
    spec.kwargs.update(
        goals=list(goals), networks=list(networks), observe_task=True, **seen, **arguments
    )
    return spec


def trained(kind: str, world: str, seed: int, folder: Path, calls: int) -> Learner:
    """A general agent, learned once and then loaded."""
    path = folder / "agents" / f"{kind.replace(' ', '-')}-{world}-{seed}"
    general = GENERAL[kind]
    agent = general.make(world)
    if not (path / "cost.json").exists():
        begin = time.monotonic()
        spec = general_spec(world, TRAIN_CLASSES, general.networks, general.seen, batch_size=256)
        agent.learn(spec, Budget(reward_calls=general.calls or calls), seed)
        agent.save(path)
        cost = {"train_s": time.monotonic() - begin, "reward_calls": general.calls or calls}
        (path / "cost.json").write_text(json.dumps(cost) + "\n")
    return type(agent).load(path)
