"""What the report asks of a suite: what was compared where, and short names for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol


class LabelledAgent(Protocol):
    """An agent in one configuration that a suite gives a short name
    (`benchmarks.suites.entry.Labelled`).
    """

    @property
    def agent(self) -> str:
        """Catalogue name, or import path."""
        ...

    @property
    def label(self) -> str:
        """What tells it from other configurations of the agent."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The agent's configuration."""
        ...

    @property
    def along(self) -> Mapping[str, Any]:
        """Arguments of the environment that go along with it."""
        ...


class Compared(Protocol):
    """What the report asks of a suite's entry (`benchmarks.suites.entry.Entry`)."""

    @property
    def env_id(self) -> str:
        """Gymnasium id."""
        ...

    @property
    def task(self) -> str:
        """Name of the task."""
        ...

    @property
    def env_kwargs(self) -> Mapping[str, Any]:
        """Further arguments of the environment."""
        ...

    @property
    def seed_kwarg(self) -> str | None:
        """The environment's argument that goes along with the agent's seed."""
        ...

    @property
    def along(self) -> Set[str]:
        """The arguments of the environment that go along with agents."""
        ...

    @property
    def pooled(self) -> bool:
        """Whether the table over all tasks of a family takes it in."""
        ...

    @property
    def title(self) -> str | None:
        """What stands in headings in place of the arguments of the environment."""
        ...

    @property
    def labelled(self) -> Sequence[LabelledAgent]:
        """The agents that have a short name."""
        ...

    def chosen(
        self, names: Sequence[str] | None
    ) -> Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
        """The agents called `names`, all of them where there are no names, each with its
        configuration and its arguments of the environment.
        """
        ...


EntriesOf = Callable[[str], Sequence[Compared]]
