"""The command that runs the rows of a line of a table again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.compared import Compared
from benchmarks.results import Row, canonical_json, edited_with

_PROGRAM = "python -m benchmarks.leaderboard run"
_SEEDED = frozenset({"task", "device"})  # they have options of their own


def command(rows: Sequence[Row], entries: Sequence[Compared]) -> str:
    """The command line that runs these rows of one agent.

    Args:
        rows: The rows.
        entries: What their suite compares; where nothing is known of it, what it sets and what was
            typed cannot be told apart, and nothing is repeated.
    """
    first = rows[0]
    # A row that was scored again as its edit was made is the run's, and lies among runs.
    if all(edited_with(row) for row in rows):
        return _rescoring(rows)
    options = {
        "suite": first["suite"],
        "tasks": ",".join(dict.fromkeys(row["task"] for row in rows if row["task"])),
        "envs": ",".join(dict.fromkeys(row["env_id"] for row in rows)),
        "agents": first["agent"],
        "seeds": max(row["seed"] for row in rows) + 1,
        "device": first["env_kwargs"].get("device", "cpu"),
    }
    if options["device"] == "cpu":
        del options["device"]
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value]
    typed = dict.fromkeys(one for row in rows for one in _typed(row, entries))
    return " ".join([_PROGRAM, *words, *(f"--set {shlex.quote(one)}" for one in typed)])


def _rescoring(rows: Sequence[Row]) -> str:
    """The command line that scores the rows again that these are of, in the folder DIR of those."""
    cells = ",".join(row["rescored_from"]["cell"][:12] for row in rows)
    given = rows[0]["rescored_from"]["set"]
    words = [f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in given.items()]
    return " ".join(["python -m benchmarks.leaderboard rescore DIR", *words, f"--rows {cells}"])


def _typed(row: Row, entries: Sequence[Compared]) -> Iterable[str]:
    """Settings and arguments of a row that its suite does not have, as `--set` takes them: also of
    a task that it does not have, which takes the place of another one of the environment.
    """
    there = [one for one in entries if one.env_id == row["env_id"]]
    family = (row["task"] or "").partition("/")[0]
    alike = [one for one in there if one.task.partition("/")[0] == family] or there
    own = [one for one in there if one.task == row["task"]] or alike[:1]
    if not own:
        return
    configs = [config for entry in own for name, config, _ in entry.chosen([row["agent"]])]
    along = [given for entry in own for _, _, given in entry.chosen([row["agent"]])]
    if not any(canonical_json(config) == canonical_json(row["agent_config"]) for config in configs):
        yield from _pairs(row["agent"], row["agent_config"], configs)
    seeded = {entry.seed_kwarg for entry in own}
    arguments = {
        key: value
        for key, value in row["env_kwargs"].items()
        if key not in _SEEDED and key not in seeded
    }
    yield from _pairs(row["task"], arguments, [*(entry.env_kwargs for entry in own), *along])


def _pairs(
    name: str, given: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    """What is given and stands nowhere in what is known, as `NAME.KEY=VALUE`."""
    for key, value in given.items():
        text = canonical_json(value)
        if not any(key in one and canonical_json(one[key]) == text for one in known):
            yield f"{name}.{key}={json.dumps(value, ensure_ascii=False)}"
