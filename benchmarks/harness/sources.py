"""The cells that edits are of: of a row that was scored again, another one than the row's."""

from __future__ import annotations

from collections.abc import Iterable

import envs_registry
from benchmarks.results import Cell, Row


def source_of(row: Row) -> Cell:
    """The cell in which the edit of a row was made: another one, where it was scored again.

    Raises:
        ValueError: The row does not say which, or it says that an argument was set which decides
            the edit: then it would be another edit's row.
    """
    while (made_from := row.get("rescored_from")) is not None:
        if deciding := not_measuring(row["env_id"], made_from["set"]):
            raise ValueError(
                f"rescored_from says that {', '.join(deciding)} was set, which decides the edit of"
                f" {row['env_id']}: run its cell, for another edit"
            )
        kept = {key: row["env_kwargs"][key] for key in row["env_kwargs"].keys() - made_from["set"]}
        row = {**row, "env_kwargs": {**kept, **made_from.get("before", {})}}
        row.pop("rescored_from")
        if "rescored_from" in made_from:
            row["rescored_from"] = made_from["rescored_from"]
        if Cell.of(row).id != made_from["cell"]:
            raise ValueError(
                f"its edit is of the cell {made_from['cell']}, and rescored_from does not say what"
                f" {', '.join(made_from['set'])} were there: run that row again, where it lies"
            )
    return Cell.of(row)


def not_measuring(env_id: str, arguments: Iterable[str]) -> list[str]:
    """The names among an environment's arguments that decide an edit, not how it is measured; none
    of a stranger's environment, of which nobody knows.
    """
    named = env_id.rpartition(":")[2]
    own = [one.measuring for one in envs_registry.ENVIRONMENTS if one.id == named]
    return [name for name in arguments if own and name not in own[0]]
