"""The leaderboard as text: Markdown, and one page that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from benchmarks.report import estimates as statistics
from benchmarks.report.aggregate import Group
from benchmarks.report.looks import palette
from benchmarks.report.plots import figures, render
from benchmarks.report.tables import Item, Table, group_table
from benchmarks.results import Cell, Row

TEMPLATE = "page.html.j2"
_CAPTIONS = {
    "intervals": (
        "Interquartile mean (dot) and 95% interval (bar) of every metric that has a better side."
    ),
    "profile": "The higher a curve, the better; where bands overlap, agents may not differ.",
    "trade-off": (
        "Small dots are single runs, large dots interquartile means with their 95% intervals."
    ),
    "depth": (
        "Is the class forgotten or hidden: what a linear probe on the features finds (dashed: in"
        " the unedited network), how many steps bring it back, and whether its training samples can"
        " be told. Short relearning and a probe near the dashed line are shallow; so is a network"
        " that forgot the rest as well."
    ),
    "retention": "How much of an edit is left after more edits have been made.",
}


@dataclass(frozen=True)
class Plot:
    """A figure of the report: its file name without the extension, and its renderings; a wide one
    has many panels.
    """

    name: str
    title: str
    caption: str
    wide: bool
    svg: bytes
    png: bytes

    @property
    def data_uri(self) -> str:
        """The SVG inside of a URI, so that a page that shows it needs no other file."""
        return f"data:image/svg+xml;base64,{base64.b64encode(self.svg).decode()}"


def bootstrap() -> dict[str, Any]:
    """How intervals were computed."""
    return {
        "seed": statistics.BOOTSTRAP_SEED,
        "samples": statistics.BOOTSTRAP_SAMPLES,
        "confidence": statistics.CONFIDENCE,
        "aggregate": "interquartile mean",
    }


def drawn_sections(groups: Sequence[Group]) -> list[tuple[Table, list[Plot]]]:
    """Every group's table with its figures."""
    looks = palette(groups)
    pooled = {(group.suite, group.family) for group in groups if len(group.strata) > 1}
    sections = []
    for group in groups:
        table = group_table(group)
        # One profile over all tasks of a family says more than one for each, and a trade-off less.
        is_pooled = len(group.strata) > 1
        skipped = (
            {"trade-off"}
            if is_pooled
            else ({"profile"} if (group.suite, group.family) in pooled else set())
        )
        drawn = figures(group, looks)
        sections.append(
            (table, [_plot(table, kind, drawn[kind]) for kind in drawn if kind not in skipped])
        )
    return sections


def _plot(table: Table, kind: str, figure: Figure) -> Plot:
    name = f"{table.slug}-{kind}"
    title = f"{table.title}, {kind}"
    wide = len(figure.axes) > 1
    return Plot(
        name, title, _CAPTIONS[kind], wide, render(figure, "svg", name), render(figure, "png", name)
    )


def markdown(
    rows: Sequence[Row], sections: Sequence[tuple[Table, Sequence[Plot]]], failed: Sequence[Row]
) -> str:
    """The content of `LEADERBOARD.md`."""
    lines = ["# Leaderboard", "", _overview(rows)]
    for table, plots in sections:
        lines += [
            "",
            f"## {table.title} ({table.suite})",
            "",
            *_markdown_table(table),
            "",
            table.reading,
            "",
        ]
        lines += [f"- {note}" for note in table.notes]
        lines += [
            "",
            *(f"![{plot.title}: {plot.caption}](plots/{plot.name}.png)" for plot in plots),
        ]
    if failed:
        lines += ["", "## Failed cells", ""]
        lines += [f"- {Cell.of(row)}: {' '.join(row['error'].split())}" for row in failed]
    return "\n".join(lines) + "\n"


def page(
    rows: Sequence[Row], sections: Sequence[tuple[Table, Sequence[Plot]]], failed: Sequence[Row]
) -> str:
    """The content of `index.html`: one page that loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(
        overview=_overview(rows),
        sections=sections,
        bootstrap=bootstrap(),
        failed=[(str(Cell.of(row)), row["error"]) for row in failed],
        machines=_machines(rows),
    )


def _overview(rows: Sequence[Row]) -> str:
    counts = {
        status: sum(row["status"] == status for row in rows)
        for status in ("finished", "failed", "unsupported")
    }
    return (
        f"{len(rows)} cells: "
        + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        + f". Bootstrap over seeds: {statistics.BOOTSTRAP_SAMPLES:,} resamples, seed"
        f" {statistics.BOOTSTRAP_SEED}."
    )


def _machines(rows: Sequence[Row]) -> list[str]:
    """Every combination of software, machine and commit that the rows come from."""
    return list(
        dict.fromkeys(
            ", ".join(
                [
                    *(f"{name} {version}" for name, version in row["versions"].items()),
                    *_hardware(row["hardware"]),
                    f"commit {row['git'] or 'unknown'}",
                ]
            )
            for row in rows
        )
    )


def _hardware(hardware: Mapping[str, Any]) -> list[str]:
    return [f"{hardware['cpu']} ({hardware['cpu_count']} cores)", *filter(None, [hardware["gpu"]])]


def _markdown_table(table: Table) -> list[str]:
    head = [column.label for column in table.columns]
    rule = ["---:" if column.numeric else ":---" for column in table.columns]
    body = [[_markdown_entry(entry) for entry in line] for line in table.lines]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def _markdown_entry(entry: Item) -> str:
    marks = (mark if mark.startswith("#") else f"({mark})" for mark in entry.marks)
    return " ".join(filter(None, [entry.text, entry.detail, *marks])).replace("|", "\\|")
