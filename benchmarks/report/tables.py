"""Groups as tables of text, the same for Markdown and for the page."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.estimates import Interval
from benchmarks.report.families import FAMILIES, SCORE, Direction
from benchmarks.report.reading import notes, reading
from benchmarks.report.standings import Estimate, Standing

MISSING = "—"
SHOWN = 6  # columns, as long as nobody chooses others

_LONGEST_SLUG = 160  # file systems take names of 255 bytes, and endings are to come
_ROUNDING = 1e-12  # what a mean of numbers that cancel may be off from 0


@dataclass(frozen=True)
class Item:
    """What stands in one place of a table.

    Attributes:
        text: What it says.
        detail: What it says in small print, such as an interval.
        sort: What a column is sorted by: a number, or None to come last; text columns sort by
            `text`.
        marks: Short flags, such as `provisional`.
    """

    text: str
    detail: str = ""
    sort: float | None = None
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Column:
    """A table's column.

    Attributes:
        key: What links call it: the metric's key, or the label's first word.
        label: Its head.
        numeric: Whether it holds numbers; text is aligned to the left.
        better: Which numbers are better; None where none are.
    """

    key: str
    label: str
    numeric: bool = True
    better: Direction | None = None


@dataclass(frozen=True)
class Table:
    """A group, ready to be printed.

    Attributes:
        title: What the group is of.
        label: The title in short.
        suite: Its suite.
        columns: All columns.
        first: The keys of those that are shown as long as nobody chooses others.
        lines: A line for each agent.
        reading: How to read it.
        notes: What to know about single lines.
        slug: The title as a part of file names and links.
    """

    title: str
    label: str
    suite: str
    columns: tuple[Column, ...]
    first: tuple[str, ...]
    lines: tuple[tuple[Item, ...], ...]
    reading: str
    notes: tuple[str, ...]
    slug: str


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """By text, the text in lower case, with single hyphens between its words. A long one is cut,
    with a hash of the whole at its end, and one that others would have too has that hash.
    """
    words = {text: "-".join(re.findall(r"[a-z0-9]+", text.lower())) for text in texts}
    counted = Counter(words.values())
    return {
        text: whole
        if len(whole) <= _LONGEST_SLUG and counted[whole] == 1
        else f"{whole[:_LONGEST_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        for text, whole in words.items()
    }


def group_tables(groups: Sequence[Group]) -> list[Table]:
    """The tables of the groups of a report."""
    titles = [f"{group.suite} {group.title}" for group in groups]
    found = slugs(titles)
    return [_table(group, found[title]) for group, title in zip(groups, titles, strict=True)]


def _table(group: Group, slug: str) -> Table:
    """The table of a group: what was measured before the edit stays in `leaderboard.json`."""
    keys = [key for key in group.metrics if not families.is_before(key)]
    columns = (
        Column("rank", "rank", better="lower"),
        Column("agent", "agent", numeric=False),
        Column("access", "access", numeric=False),
        Column("reward_calls", "reward calls", better="lower"),
        Column("n", "n", better="higher"),
        *(
            Column(
                key, families.label(key, group.family), True, families.direction(key, group.family)
            )
            for key in keys
        ),
        *(Column(cost.key, cost.label, True, cost.better) for cost in _COSTS),
    )
    lines = tuple(_line(standing, keys) for standing in group.standings)
    return Table(
        group.title,
        group.label,
        group.suite,
        columns,
        _first(group, columns),
        lines,
        reading(group),
        notes(group),
        slug,
    )


def _first(group: Group, columns: Sequence[Column]) -> tuple[str, ...]:
    """The agent, its seeds, the score and its parts, and what else there is room for."""
    parts = () if group.family is None else FAMILIES[group.family].parts
    known = [column.key for column in columns]
    wanted = ("agent", "n", SCORE, *parts, "access", *known)
    chosen = [key for key in dict.fromkeys(wanted) if key in known][:SHOWN]
    return tuple(sorted(chosen, key=known.index))


def estimate_text(estimate: Estimate) -> str:
    """An estimate, with its interval in brackets where it has one."""
    return interval_text(Interval(estimate.iqm, estimate.low, estimate.high, estimate.n))


def number(value: float, like: float | None = None) -> str:
    """A metric's value with three decimals, or fewer where it, or the value that it stands beside,
    is large.
    """
    size = abs(value if like is None else like)
    if size >= 10:
        return f"{value:,.0f}" if size >= 100 else f"{value:.1f}"
    small = _ROUNDING < size < 0.0005 and value
    return f"{value:.1e}" if small else f"{0.0 if size < _ROUNDING else value:.3f}"


def interval_text(interval: Interval | None) -> str:
    """An estimate, with its interval in brackets where it has one."""
    if interval is None:
        return MISSING
    if interval.low is None or interval.high is None:
        return number(interval.estimate)
    return f"{number(interval.estimate)} [{number(interval.low)}, {number(interval.high)}]"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for limit, scale, unit in ((0.9995, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    hours = seconds / 3600
    return f"{hours:.3g} h" if hours < 999.5 else f"{hours:,.0f} h"


def _line(standing: Standing, keys: list[str]) -> tuple[Item, ...]:
    flags = {
        "shallow": standing.shallow,
        f"{standing.failed} failed": standing.failed,
        "unsupported": standing.unsupported,
    }
    calls = standing.reward_calls
    return (
        Item(MISSING if standing.rank is None else str(standing.rank), sort=standing.rank),
        Item(standing.label, marks=tuple(flag for flag, raised in flags.items() if raised)),
        Item(standing.access or MISSING),
        Item(MISSING if calls is None else f"{calls:,}", sort=calls),
        Item(standing.seeds, sort=standing.n, marks=_of_seeds(standing)),
        *(_metric(standing.metrics.get(key)) for key in keys),
        *(_cost(cost.of(standing), cost.show) for cost in _COSTS),
    )


def _of_seeds(standing: Standing) -> tuple[str, ...]:
    """What to know about an agent's seeds."""
    flags = {
        "provisional": standing.provisional,
        f"{standing.verified} verified": standing.verified,
    }
    return tuple(flag for flag, raised in flags.items() if raised)


def _metric(estimate: Estimate | None) -> Item:
    if estimate is None:
        return Item(MISSING)
    between = (
        ""
        if estimate.low is None or estimate.high is None
        else (f"[{number(estimate.low, estimate.iqm)}, {number(estimate.high, estimate.iqm)}]")
    )
    marks = () if estimate.rank is None else (f"#{estimate.rank}",)
    return Item(number(estimate.iqm), between, estimate.iqm, marks)


def _cost(value: float | None, show: Callable[[float], str]) -> Item:
    return Item(MISSING) if value is None else Item(show(value), sort=value)


def _mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"


class _Cost(NamedTuple):
    """A column of what an agent costs."""

    key: str
    label: str
    better: Direction
    of: Callable[[Standing], float | None]
    show: Callable[[float], str]


_COSTS = (
    _Cost("train_s", "train time", "lower", lambda one: one.time["train_s"], duration),
    _Cost("edit_s", "edit time", "lower", lambda one: one.time["edit_s"], duration),
    _Cost("eval_s", "eval time", "lower", lambda one: one.time["eval_s"], duration),
    _Cost("edits_per_s", "edits/s", "higher", lambda one: one.time["edits_per_s"], number),
    _Cost("memory", "peak memory", "lower", lambda one: one.peak_memory_bytes, _mebibytes),
)
