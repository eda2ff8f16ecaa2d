"""What suites are made of: entries, each an environment with a task and who is compared there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# A catalogue name or an import path, with or without a configuration.
AgentChoice = str | tuple[str, Mapping[str, Any]]

# Reward evaluations that every agent gets for one task; agents that never ask for a reward spend
# none of them. Where a task is not here there is no budget, and agents that search fail.
REWARD_CALLS = {
    "unlearning/digits": 40_960,
    "unlearning/mnist": 20_480,
    "unlearning/cifar10": 16_384,
    "debiasing/templates": 20_480,
    "debiasing/toxicity": 20_480,
    "knowledge/factworld": 3_200,
    "knowledge/zsre": 3_200,
    "knowledge/counterfact": 3_200,
}


@dataclass(frozen=True)
class Entry:
    """One environment with one task, and who is compared there.

    Attributes:
        env_id: Gymnasium id.
        task: Name of the task.
        agents: Catalogue names, or pairs of a name and the agent's configuration; a name may come
            several times.
        max_seeds: Upper limit of the number of seeds, for tasks too slow for the suite's number.
        env_kwargs: Further arguments of the environment.
        seed_kwarg: The environment's argument that goes along with the agent's seed, such as the
            seed of the network or of the stream of edits; None where it takes none.
        reward_calls: What every agent gets here in place of the task's `REWARD_CALLS`.
        pooled: Whether the table over all tasks of a family takes it in. Not where few of the
            agents are compared, or where they have settings of their own: an agent that lacks a
            result in one task is not in that table.
    """

    env_id: str
    task: str
    agents: tuple[AgentChoice, ...]
    max_seeds: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed_kwarg: str | None = "model_seed"
    reward_calls: int | None = None
    pooled: bool = True

    def chosen(self, names: Sequence[str] | None) -> list[tuple[str, Mapping[str, Any]]]:
        """The agents called `names`, as configured here where they are here; all of them where
        there are no names.
        """
        own = [(agent, {}) if isinstance(agent, str) else agent for agent in self.agents]
        if not names:
            return own
        return [pair for name in names for pair in [p for p in own if p[0] == name] or [(name, {})]]


@dataclass(frozen=True)
class Suite:
    """A named comparison.

    Attributes:
        name: Name on the command line and in every row.
        seeds: Default number of seeds, 0 … seeds − 1.
        entries: What is run.
    """

    name: str
    seeds: int
    entries: tuple[Entry, ...]
