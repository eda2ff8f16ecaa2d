"""What suites are made of: entries, each an environment with a task and who is compared there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Labelled:
    """An agent in one configuration, with a short name for tables.

    Attributes:
        agent: Catalogue name, or import path.
        label: What tells it from other configurations of the agent, in a word or two.
        config: The agent's configuration.
        along: Arguments of the environment that go along with it.
    """

    agent: str
    label: str
    config: Mapping[str, Any] = field(default_factory=dict)
    along: Mapping[str, Any] = field(default_factory=dict)


# A catalogue name or an import path; with or without a configuration, and arguments of the
# environment that go along with it.
AgentChoice = (
    str
    | tuple[str, Mapping[str, Any]]
    | tuple[str, Mapping[str, Any], Mapping[str, Any]]
    | Labelled
)

Chosen = tuple[str, Mapping[str, Any], Mapping[str, Any]]

# Reward evaluations that every agent gets for one task; agents that never ask for a reward spend
# none of them. Where a task is not here there is no budget, and agents that search fail.
REWARD_CALLS = {
    "unlearning/digits": 40_960,
    "unlearning/mnist": 20_480,
    "unlearning/cifar10": 16_384,
    "unlearning/backdoor": 20_480,
    "debiasing/templates": 20_480,
    "debiasing/toxicity": 20_480,
    "debiasing/transformer": 20_480,
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
        agents: Catalogue names, or tuples of a name, the agent's configuration, and arguments of
            the environment that are a part of how this agent works, such as the sites that it was
            tuned for, or `rehearse`: agents that differ in them stand in one table. A name may
            come several times. `Labelled` is such a tuple with a short name for tables.
        max_seeds: Upper limit of the number of seeds, for tasks too slow for the suite's number.
        env_kwargs: Further arguments of the environment.
        seed_kwarg: The environment's argument that goes along with the agent's seed, such as the
            seed of the network or of the stream of edits; None where it takes none.
        reward_calls: What every agent gets here in place of the task's `REWARD_CALLS`.
        pooled: Whether the table over all tasks of a family takes it in. Not where few of the
            agents are compared, or where they have settings of their own: an agent that lacks a
            result in one task is not in that table.
        title: What stands in headings in place of `env_kwargs`, in a few words; None writes them
            out.
    """

    env_id: str
    task: str
    agents: tuple[AgentChoice, ...]
    max_seeds: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    seed_kwarg: str | None = "model_seed"
    reward_calls: int | None = None
    pooled: bool = True
    title: str | None = None

    @property
    def along(self) -> frozenset[str]:
        """The arguments of the environment that go along with agents."""
        return frozenset(name for _, _, own in self.chosen(None) for name in own)

    @property
    def labelled(self) -> tuple[Labelled, ...]:
        """The agents that have a short name."""
        return tuple(agent for agent in self.agents if isinstance(agent, Labelled))

    def chosen(self, names: Sequence[str] | None) -> list[Chosen]:
        """The agents called `names` with their configuration and their arguments of the
        environment, as they are here where they are here; all of them where there are no names.
        """
        own = [_chosen(agent) for agent in self.agents]
        if not names:
            return own
        return [
            one for name in names for one in [c for c in own if c[0] == name] or [(name, {}, {})]
        ]


def _chosen(agent: AgentChoice) -> Chosen:
    if isinstance(agent, str):
        return agent, {}, {}
    if isinstance(agent, Labelled):
        return agent.agent, agent.config, agent.along
    name, config, *along = agent
    return name, config, along[0] if along else {}


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
