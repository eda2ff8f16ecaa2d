"""Strata: the rows of one environment, task and its arguments, which may be compared; and what they
are called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report.compared import Compared
from benchmarks.results import Row, edited_with
from benchmarks.results.lines import printable
from editgym.checks import as_json

_MODEL_SEED = "model_seed"
_NOT_TOLD = frozenset({"task", _MODEL_SEED, "device"})

# Where a row's stratum stands while it is in a group.
STRATUM = "stratum"


class Strata:
    """How the rows of a suite are divided.

    Args:
        entries: What the suite compares; nothing where it is not known: then no argument is its
            seed but `model_seed`.

    Attributes:
        along: The arguments of environments that go along with agents in some entry.
    """

    def __init__(self, entries: Sequence[Compared] = ()) -> None:
        self.along = frozenset(name for entry in entries for name in entry.along)
        seeds = {_MODEL_SEED, *(entry.seed_kwarg for entry in entries if entry.seed_kwarg)}
        fixed = {name for entry in entries for name in entry.env_kwargs}
        self._left_out = _NOT_TOLD | self.along | seeds
        self._seeds = seeds - self.along - fixed

    def of(self, row: Row) -> str:
        """Environment and task of a row, and whatever else was asked of the environment, but for
        what goes along with agents; of an edit that was scored again also what it was made with.

        An argument that has the value of the seed is left out. Where it has another, which was
        typed, the row is of another network than its seed's, and told apart by it.
        """
        kwargs, seed = row["env_kwargs"], row["seed"]
        other = {name: kwargs[name] for name in self._seeds if kwargs.get(name, seed) != seed}
        made = {f"edited with {key}": value for key, value in edited_with(row).items()}
        return title(row["env_id"], row["task"], self._told(kwargs) | other | made)

    def asked(self, env_id: str, task: str | None, env_kwargs: Mapping[str, Any]) -> str:
        """Environment, task and those arguments that tell strata apart."""
        return title(env_id, task, self._told(env_kwargs))

    def of_entry(self, entry: Compared) -> str:
        """The stratum of an entry; its arguments as rows have them, with lists for tuples."""
        return self.asked(entry.env_id, entry.task, as_json(entry.env_kwargs))

    def _told(self, env_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in env_kwargs.items() if key not in self._left_out}


def title(env_id: str, task: str | None, extra: Mapping[str, Any]) -> str:
    """Environment, task and further arguments on one line."""
    told = [env_id, *filter(None, [task]), *(f"{key}={extra[key]}" for key in sorted(extra))]
    return printable(" · ".join(told), kept="")
