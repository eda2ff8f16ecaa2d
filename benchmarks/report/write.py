"""Draws everything from the rows alone: `leaderboard.json`, `LEADERBOARD.md`, `index.html` and the
figures.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.report.aggregate import Group, group_rows
from benchmarks.report.brief import brief
from benchmarks.report.compared import EntriesOf
from benchmarks.report.details import details
from benchmarks.report.markdown import markdown
from benchmarks.report.page import page
from benchmarks.report.sections import bootstrap, sections_of
from benchmarks.report.standings import VERIFIED
from benchmarks.results import SCHEMA, Cell, Row, rows_in
from benchmarks.results.marks import Mark, read_marks
from editgym.paths import whole_file

# Fields that rows of earlier versions do not have.
_NOT_IN_ALL = {"task": None, "git": None, "peak_memory_bytes": None}


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        page: The path of `index.html`.
        brief: Its tables in short, for a terminal.
        failed: Number of failed cells.
        failures: The failed cells, also those that an agent gave up which does others of the
            table.
        groups: The groups that it is of.
        refused: What is wrong with marks of verification that are not shown, a line for each.
    """

    page: Path
    brief: str
    failed: int
    groups: Sequence[Group]
    refused: tuple[str, ...] = ()
    failures: Set[str] = frozenset()


def write_report(folder: Path, entries_of: EntriesOf = lambda suite: ()) -> Report:
    """Write the leaderboard of the rows in `folder` into `folder`.

    Args:
        folder: Where the rows are.
        entries_of: What a suite compares, see `group_rows`.

    Raises:
        FileNotFoundError: There are no rows.
        ResultsError: The rows have another schema, or the file is damaged.
        OSError: The folder cannot be written.
    """
    rows = rows_in(folder)
    marks = read_marks(folder, rows)
    rows = [
        {
            **_NOT_IN_ALL,
            **row,
            VERIFIED: [_in_words(mark) for mark in marks.of.get(row["row_sha256"], ())],
        }
        for row in rows
    ]
    _import_strangers(rows)
    groups = group_rows(rows, entries_of)
    sections = sections_of(groups)
    failures = {row["cell"] for row in rows if row["status"] == "failed"}
    failures.update(*(group.failed for group in groups))
    failed = [row for row in rows if row["cell"] in failures]
    text = markdown(rows, sections, failed)
    board = json.dumps(summary(failed, groups), indent=2, allow_nan=False, ensure_ascii=False)
    page_file = folder / "index.html"
    plots = [plot for section in sections for plot in section.plots]
    files = {
        **{folder / "plots" / f"{plot.name}.svg": plot.svg for plot in plots},
        folder / "leaderboard.json": f"{board}\n",
        folder / "LEADERBOARD.md": text,
        page_file: page(rows, sections, details(groups, entries_of, folder)),
    }
    for file, content in files.items():  # what links to others after these
        with whole_file(file) as partial:
            partial.write_text(content, encoding="utf-8")
    return Report(
        page_file, brief(groups, len(failed)), len(failed), groups, marks.refused, failures
    )


def _in_words(mark: Mark) -> str:
    """Who reproduced a row, when, and with which versions."""
    versions = mark.rerun["versions"]
    known = [f"{name} {versions[name]}" for name in ("editgym", "torch") if name in versions]
    return ", ".join([mark.by, mark.when.partition("T")[0], *known])


def summary(failed: Sequence[Row], groups: Sequence[Group]) -> dict[str, Any]:
    """The content of `leaderboard.json`.

    Args:
        failed: The rows of failed cells.
        groups: The groups.
    """
    return {
        "schema": SCHEMA,
        "bootstrap": bootstrap(),
        "groups": [_group_summary(group) for group in groups],
        "failed": [_failure(row) for row in failed],
    }


def _group_summary(group: Group) -> dict[str, Any]:
    agents = [
        {
            **{key: value for key, value in asdict(one).items() if key != "lacking" or value},
            "rank": one.rank,
        }
        for one in group.standings
    ]
    return {
        "suite": group.suite,
        "title": group.title,
        "family": group.family,
        "strata": group.strata,
        "left_out": group.left_out,
        "agents": agents,
    }


def _failure(row: Row) -> dict[str, Any]:
    return {key: row[key] for key in ("cell", "suite", "env_id", "task", "agent", "seed", "error")}


def _import_strangers(rows: Sequence[Row]) -> None:
    """Import the modules that suites, environments and tasks by import path stand in: they register
    families of metrics. Agents' modules, and whatever else rows mention, have nothing to say here.
    """
    cells = [replace(Cell.of(row), agent="", agent_config={}, settings={}) for row in rows]
    modules = {path.partition(":")[0] for cell in cells for path in cell.parts}
    for module in sorted(modules):
        with suppress(Exception, SystemExit):  # whatever is not here is reported as it is
            importlib.import_module(module)
