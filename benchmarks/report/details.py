"""What a line of the page opens to: runs, settings, command, machines, and some of its edits."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from benchmarks.report.aggregate import Group, metric_value
from benchmarks.report.commands import command
from benchmarks.report.compared import EntriesOf
from benchmarks.report.strata import STRATUM
from benchmarks.results import ResultsError, Row, canonical_json, records_file
from benchmarks.results.integrity import place_problem
from benchmarks.results.lines import records_in

# The page holds the first edits of the first run of every line, as long as there is room; all of
# them are in the file that it links to.
_EDITS = 20
_ROOM = 1_000_000  # characters


class Shared:
    """Values that many rows have in common: each is kept once, and has a place."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def place(self, key: Hashable, value: Any = None) -> int:
        """The place of a value, by the value itself or a key that stands for it."""
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(key if value is None else value)
        return self._places[key]


def details(groups: Sequence[Group], entries_of: EntriesOf, folder: Path) -> dict[str, Any]:
    """All that the lines of `groups` open to, JSON-able.

    Args:
        groups: The groups.
        entries_of: What a suite compares, by its name.
        folder: Where the rows are; links are relative to it.

    Returns:
        `lines`: for each group for each agent `{name, command, keys, runs, settings}`, where `keys`
        are metrics, a run is `[seed, stratum, cell, journal, records, machine, values]`, with the
        files that are here, and `settings` are `[stratum, settings]`; `texts`: what the places of
        stratum, machine and settings stand for; `edits`: by cell a list of `[edit, prompt, target,
        right after, at the end, skipped]`.
    """
    texts = Shared()
    here = {
        f"{name}/{file.name}"
        for name in ("edits", "records")
        if (folder / name).is_dir()
        for file in (folder / name).iterdir()
    }
    lines = [
        [_line(group, standing.agent, texts, here, entries_of) for standing in group.standings]
        for group in groups
    ]
    first = dict.fromkeys(
        run[2]
        for group, own in zip(groups, lines, strict=True)
        if len(group.strata) == 1
        for one in own
        for run in one["runs"][:1]
        if run[4]
    )
    return {"lines": lines, "texts": texts.values, "edits": _edits(folder, list(first))}


def machine(row: Row) -> str:
    """The software and the machine that a row comes from."""
    hardware: Mapping[str, Any] = row["hardware"]
    return ", ".join(
        [
            *(f"{name} {version}" for name, version in row["versions"].items()),
            f"{hardware['cpu']} ({hardware['cpu_count']} cores)",
            *filter(None, [hardware.get("instructions"), hardware["gpu"]]),
        ]
    )


def _line(
    group: Group, agent: str, texts: Shared, here: Set[str], entries_of: EntriesOf
) -> dict[str, Any]:
    rows = group.rows[agent]
    keys = [
        key
        for key in group.metrics
        if any(metric_value(row, key, group.family) is not None for row in rows)
    ]
    return {
        "name": agent,
        "command": command(rows, entries_of(group.suite)) if rows else None,
        "keys": keys,
        "settings": [
            [
                texts.place(stratum),
                texts.place(_settings([row for row in rows if row[STRATUM] == stratum])),
            ]
            for stratum in dict.fromkeys(row[STRATUM] for row in rows)
        ],
        "runs": [_run(row, keys, group.family, texts, here) for row in rows],
    }


def _run(
    row: Row, keys: Sequence[str], family: str | None, texts: Shared, here: Set[str]
) -> list[Any]:
    provenance = canonical_json([row["versions"], row["hardware"], row["git"]])
    return [
        row["seed"],
        texts.place(row[STRATUM]),
        row["cell"],
        *(name if name in here else None for name in (row["edit_file"], records_file(row["cell"]))),
        texts.place(provenance, f"{machine(row)}, commit {row['git'] or 'unknown'}"),
        [_short(metric_value(row, key, family)) for key in keys],
    ]


def _settings(rows: Sequence[Row]) -> str:
    """Settings and arguments in full; those that differ between seeds by seed."""
    found = {}
    for name, field in (("agent", "settings"), ("environment", "env_kwargs")):
        own = {row["seed"]: row[field] for row in rows}
        keys = sorted({key for one in own.values() for key in one})
        found[name] = {
            key: values[0]
            if len(set(map(json.dumps, values))) == 1
            else dict(zip(own, values, strict=True))
            for key in keys
            if (values := [one.get(key) for one in own.values()])
        }
    return json.dumps(found, indent=1, ensure_ascii=False)


def _short(value: float | None) -> float | None:
    """A value with the digits that anybody looks at."""
    return None if value is None else float(f"{value:.5g}")


def _edits(folder: Path, cells: Sequence[str]) -> dict[str, list[list[Any]]]:
    """By cell its first edits: with more cells fewer of each.

    Raises:
        ResultsError: A file of records is damaged.
    """
    found: dict[str, list[list[Any]]] = {}
    room = _ROOM // max(1, len(cells))
    for cell in cells:
        if (problem := place_problem(records_file(cell), folder)) is not None:
            raise ResultsError(f"cell {cell}: {problem}")
        own = [_edit(record) for record in records_in(folder / records_file(cell), _EDITS)]
        while own and len(json.dumps(own)) > room:
            own.pop()
        found[cell] = own
    return found


def _edit(record: Mapping[str, Any]) -> list[Any]:
    keys = ("edit", "prompt", "target", "answer_now", "answer", "skipped")
    return [record.get(key) for key in keys]
