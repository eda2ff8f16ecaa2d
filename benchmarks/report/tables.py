"""Groups as tables of text, the same for Markdown and for the page."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.comparisons import RANKED_FROM
from benchmarks.report.estimates import PROVISIONAL_BELOW, Interval
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.standings import (
    SHALLOW_PROBE,
    SHALLOW_SHARE,
    SHALLOW_STEPS,
    VERIFIED,
    Estimate,
    Standing,
)

MISSING = "—"
ACCESS = {
    "reward": "black box: observations and rewards only",
    "gradient": "white box: gradients of the reward",
    "data": "a classical algorithm on the model and its data",
    "oracle": "more than an editor may have, such as retraining from scratch",
}

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
    """A table's column; text columns are aligned to the left."""

    label: str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A group, ready to be printed; `reading` tells how to read it, `notes` what to know about
    single lines.
    """

    title: str
    suite: str
    columns: tuple[Column, ...]
    lines: tuple[tuple[Item, ...], ...]
    reading: str
    notes: tuple[str, ...]

    @property
    def slug(self) -> str:
        """The title as a part of file names and links."""
        return slug(f"{self.suite} {self.title}")


def slug(text: str) -> str:
    """`text` in lower case, with single hyphens between its words; a long one is cut, with a hash
    of the whole at its end.
    """
    whole = "-".join(re.findall(r"[a-z0-9]+", text.lower()))
    if len(whole) <= _LONGEST_SLUG:
        return whole
    return f"{whole[:_LONGEST_SLUG]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def group_table(group: Group) -> Table:
    """The table of a group: what was measured before the edit stays in `leaderboard.json`."""
    keys = [key for key in group.metrics if not families.is_before(key)]
    columns = (
        Column("rank"),
        Column("agent", numeric=False),
        Column("access", numeric=False),
        Column("reward calls"),
        Column("n"),
        *(Column(families.label(key, group.family)) for key in keys),
        *(Column(label) for label, _ in _COSTS),
    )
    lines = tuple(_line(standing, keys) for standing in group.standings)
    return Table(group.title, group.suite, columns, lines, _reading(group), _notes(group))


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
    for limit, scale, unit in ((1.0, 1e3, "ms"), (120.0, 1.0, "s"), (7200.0, 1 / 60, "min")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def _line(standing: Standing, keys: list[str]) -> tuple[Item, ...]:
    flags = {
        "shallow": standing.shallow,
        f"{standing.failed} failed": standing.failed,
        "unsupported": standing.unsupported,
    }
    calls = standing.reward_calls
    return (
        Item(MISSING if standing.rank is None else str(standing.rank), sort=standing.rank),
        Item(standing.agent, marks=tuple(flag for flag, raised in flags.items() if raised)),
        Item(standing.access or MISSING),
        Item(MISSING if calls is None else f"{calls:,}", sort=calls),
        Item(str(standing.n), sort=standing.n, marks=_of_seeds(standing)),
        *(_metric(standing.metrics.get(key)) for key in keys),
        *(_cost(cost(standing), show) for _, (cost, show) in _COSTS),
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


_COSTS: tuple[
    tuple[str, tuple[Callable[[Standing], float | None], Callable[[float], str]]], ...
] = (
    ("train time", (lambda standing: standing.time["train_s"], duration)),
    ("edit time", (lambda standing: standing.time["edit_s"], duration)),
    ("eval time", (lambda standing: standing.time["eval_s"], duration)),
    ("edits/s", (lambda standing: standing.time["edits_per_s"], number)),
    ("peak memory", (lambda standing: standing.peak_memory_bytes, _mebibytes)),
)


def _reading(group: Group) -> str:
    if not any(standing.n for standing in group.standings):
        return "No cell of this table is finished yet."
    order = (
        "Lines are sorted by name, since no family of metrics says what agents are ranked by."
        if group.family is None
        else f"Lines are sorted by the {SCORE.replace('_', ' ')} of"
        f" {FAMILIES[group.family].score_words}."
    )
    pooled = (
        f" Runs of {len(group.strata)} environments and tasks are pooled; seeds are resampled"
        " within each task, in all its environments at once, since these share a seed's network."
        * (len(group.strata) > 1)
    )
    return (
        "How to read this: a number is the interquartile mean over seeds (the mean of the middle"
        f" half), in brackets its 95% bootstrap interval over seeds, from {PROVISIONAL_BELOW} seeds"
        f" on.{pooled} #k, from {RANKED_FROM} seeds on, is 1 + the number of agents that are better"
        " by a paired t-test over seeds, at a chance of 5% that any two agents of a column are told"
        " apart falsely (Holm's procedure over all pairs); agents that cannot be told apart may"
        f" share a rank. {order} ↑ higher is better, ↓ lower is better, no arrow: a description."
        " Times are medians of wall-clock time. Compare agents of one kind of access."
    )


def _notes(group: Group) -> tuple[str, ...]:
    standings = group.standings
    notes = [
        f"{standing.agent} does not do this: {standing.unsupported}"
        for standing in standings
        if standing.unsupported
    ]
    if group.left_out:
        notes.append(
            "Without a result in each of the pooled tasks, and so not here:"
            f" {', '.join(group.left_out)}."
        )
    if any(standing.provisional for standing in standings):
        notes.append(
            f"provisional: fewer than {PROVISIONAL_BELOW} seeds, and so no interval: of 3 seeds a"
            " nominal 95% interval covers about 75%."
        )
    if any(standing.shallow for standing in standings):
        notes.append(
            f"shallow: the class looks forgotten, but an attack has {SHALLOW_SHARE:.0%} or more of"
            " the way from the retrained network back to the unedited one; in rows without attacks,"
            f" {SHALLOW_STEPS} steps of fine-tuning bring it back, or a linear probe of features"
            f" finds {SHALLOW_PROBE:.0%} of what it found before, and not so in the retrained one."
        )
    texts = {text for rows in group.rows.values() for row in rows for text in row.get(VERIFIED, ())}
    if texts:
        notes.append(
            "verified: somebody else ran the cells again and got the same rows:"
            f" {'; '.join(sorted(texts))}."
        )
    shown = {standing.access for standing in standings}
    notes.append(
        "access: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in ACCESS.items() if name in shown)
    )
    return tuple(notes)
