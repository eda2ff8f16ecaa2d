"""Rows of a study, chosen by what they hold, and what tells their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import Row
from benchmarks.suites.cells import entries_of


def chosen(rows: Sequence[Row], where: Mapping[str, Any]) -> list[Row]:
    """The finished rows whose field, argument of the environment, or setting has each of the
    values; None means that there is none, and a list, where the row has none, any of its members.
    """

    def has(row: Row, name: str, wanted: Any) -> bool:
        value = row.get(name, row["env_kwargs"].get(name, row["settings"].get(name)))
        if isinstance(wanted, list) and not isinstance(value, list):
            return value in wanted
        return bool(value == wanted)

    return [
        row
        for row in rows
        if row["status"] == "finished"
        and all(has(row, name, wanted) for name, wanted in where.items())
    ]


def seeded(rows: Sequence[Row]) -> frozenset[str]:
    """The arguments of the environment that have the value of a row's seed, such as the seed of the
    network: rows that differ in them alone are of one line.
    """
    suites = dict.fromkeys(row["suite"] for row in rows)
    named = {entry.seed_kwarg for suite in suites for entry in entries_of(suite)}
    return frozenset({"model_seed", *filter(None, named)})
