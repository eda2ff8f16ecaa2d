"""The leaderboard as a terminal shows it: of every group the rank, the score and its parts."""

from __future__ import annotations

from collections.abc import Sequence, Set

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.comparisons import RANKED_FROM
from benchmarks.report.estimates import PROVISIONAL_BELOW
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.standings import Estimate, Standing
from benchmarks.report.tables import MISSING, number

_LONGEST_NAME = 48
_LONGEST_TITLE = 100
READING = (
    "A number is the mean of the middle half of the seeds, in brackets its 95% interval (from"
    f" {PROVISIONAL_BELOW} seeds on); a rank is 1 + the agents that are significantly better (from"
    f" {RANKED_FROM} seeds on)."
)


def brief(groups: Sequence[Group], failed: int) -> str:
    """Short tables of groups, and a sentence on how to read them.

    Args:
        groups: The groups.
        failed: How many cells failed.
    """
    texts = [text for group in groups if (text := _table(group))]
    found = "\n\n".join([*texts, READING] if texts else ["No cell is finished yet."])
    return found + (f" Failed cells: {failed}; the page says why." if failed else "")


def _table(group: Group) -> str:
    """The table of a group; empty where nothing is finished."""
    keys = [SCORE, *(() if group.family is None else FAMILIES[group.family].parts)]
    shown = [standing for standing in group.standings if standing.n]
    if not shown:
        return ""
    head = ["rank", "agent", "n", *(families.label(key, group.family) for key in keys)]
    lines = [head, *(_line(standing, keys) for standing in shown)]
    return "\n".join([cut(group.title, _LONGEST_TITLE), *aligned(lines, left={1})])


def aligned(lines: Sequence[Sequence[str]], left: Set[int]) -> list[str]:
    """Lines of a table with their columns below each other: to the left the columns in `left`,
    names, and all others, numbers, to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def cut(text: str, longest: int) -> str:
    """A text, or as much of it as fits, and an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _line(standing: Standing, keys: Sequence[str]) -> list[str]:
    return [
        MISSING if standing.rank is None else str(standing.rank),
        cut(standing.agent, _LONGEST_NAME),
        str(standing.n),
        *(_value(standing.metrics.get(key), interval=key == SCORE) for key in keys),
    ]


def _value(estimate: Estimate | None, interval: bool) -> str:
    if estimate is None:
        return MISSING
    text = number(estimate.iqm)
    if not interval or estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{number(estimate.low, estimate.iqm)}, {number(estimate.high, estimate.iqm)}]"
