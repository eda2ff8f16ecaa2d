"""The leaderboard as one page that loads nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from benchmarks.report import svg
from benchmarks.report.details import machine
from benchmarks.report.looks import style
from benchmarks.report.plots import Plot
from benchmarks.report.sections import Section, bootstrap, overview
from benchmarks.report.tables import Item, Table
from benchmarks.results import Cell, Row

TEMPLATES = Path(__file__).parent / "web"


def page(rows: Sequence[Row], sections: Sequence[Section], details: Mapping[str, Any]) -> str:
    """The content of `index.html`.

    Args:
        rows: All rows.
        sections: Tables with their figures.
        details: What lines open to, see `benchmarks.report.details.details`.
    """
    return _template().render(
        overview=overview(rows),
        bootstrap=bootstrap(),
        failed=[(str(Cell.of(row)), row["error"]) for row in rows if row["status"] == "failed"],
        machines=_machines(rows),
        style=_asset("page.css") + style() + svg.CHART_STYLE,
        script=_asset("table.js") + _asset("details.js") + _asset("page.js"),
        tables=in_script([_table(section.table) for section in sections]),
        plots=in_script([[_plot(plot) for plot in section.plots] for section in sections]),
        details=in_script(details),
    )


def in_script(value: Any) -> str:
    """A value as JSON that can stand inside of a script element: nothing in it ends that."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _machines(rows: Sequence[Row]) -> list[str]:
    """Every combination of software and machine that the rows come from, with the commits."""
    commits: dict[str, dict[str, None]] = {}
    for row in rows:
        commits.setdefault(machine(row), {})[row["git"] or "unknown"] = None
    return [
        f"{name}; {'commits' if len(own) > 1 else 'commit'} {', '.join(own)}"
        for name, own in commits.items()
    ]


def _table(table: Table) -> dict[str, Any]:
    return {
        "slug": table.slug,
        "title": table.label,
        "full": table.title,
        "suite": table.suite,
        "columns": [
            {
                "key": column.key,
                "label": column.label,
                "numeric": column.numeric,
                "better": column.better,
            }
            for column in table.columns
        ],
        "first": table.first,
        "lines": [[_item(item) for item in line] for line in table.lines],
        "reading": table.reading,
        "notes": table.notes,
    }


def _item(item: Item) -> list[Any]:
    """Text, what it is sorted by, small print and marks, without what is empty at the end."""
    found = [item.text, item.sort, item.detail, list(item.marks)]
    while len(found) > 1 and not found[-1] and found[-1] != 0:
        found.pop()
    return found


def _plot(plot: Plot) -> dict[str, Any]:
    return {
        "title": plot.title,
        "kind": plot.kind,
        "caption": plot.caption,
        "file": f"plots/{plot.name}.svg",
        "panels": [panel.svg() for panel in plot.panels],
        "legend": [[name, svg.swatch(look)] for name, look in plot.legend],
    }


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html.j2")


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
