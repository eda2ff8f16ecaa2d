"""The leaderboard as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from benchmarks.report.sections import Section, overview
from benchmarks.report.tables import Item, Table
from benchmarks.results import Cell, Row
from benchmarks.results.lines import printable

# Signs that mean something in Markdown: an underscore not within a word, a colon and a full stop in
# what GitHub takes for an address.
_MEANS = re.compile(
    r"[\\|<\[\]*`~]|(?<!\w)_|_(?!\w)|^[#>]|:(?=//)|(?<=\bwww)\.",
    re.IGNORECASE,
)


def markdown(rows: Sequence[Row], sections: Sequence[Section], failed: Sequence[Row]) -> str:
    """The content of `LEADERBOARD.md`."""
    lines = ["# Leaderboard", "", overview(rows)]
    for section in sections:
        table = section.table
        lines += [
            "",
            f"## {_escaped(table.label)} ({_escaped(table.suite)})",
            "",
            *_markdown_table(table),
            "",
            table.reading,
            "",
        ]
        lines += [f"- {_escaped(_one_line(note))}" for note in table.notes]
        lines += [
            "",
            *(
                f"![{_escaped(plot.title)}: {plot.caption}](plots/{plot.name}.svg)"
                for plot in section.plots
            ),
        ]
    if failed:
        lines += ["", "## Failed cells", ""]
        lines += [
            f"- {_escaped(str(Cell.of(row)))}: {_escaped(_one_line(row['error']))}"
            for row in failed
        ]
    return "\n".join(lines) + "\n"


def _one_line(text: str | None) -> str:
    """A text that somebody else may have written, without line breaks and signs of control."""
    return " ".join(printable(text or "no reason is given").split())


def _markdown_table(table: Table) -> list[str]:
    head = [_escaped(column.label) for column in table.columns]
    rule = ["---:" if column.numeric else ":---" for column in table.columns]
    body = [[_markdown_entry(entry) for entry in line] for line in table.lines]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *body)]


def _markdown_entry(entry: Item) -> str:
    marks = (mark if mark.startswith("#") else f"({mark})" for mark in entry.marks)
    return " ".join(filter(None, [_escaped(entry.text), entry.detail, *marks]))


def _escaped(text: str) -> str:
    """A text that holds names and settings of strangers, without a meaning in Markdown: no more
    columns, no HTML, no links, images, emphasis, code or headings.
    """
    return _MEANS.sub(r"\\\g<0>", text)
