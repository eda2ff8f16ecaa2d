"""Every agent of a group beside one chosen agent: `leaderboard report DIR --against AGENT`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.brief import aligned, wrapped
from benchmarks.report.comparisons import FALSE_CALLS, RANKED_FROM, against
from benchmarks.report.families import SCORE
from benchmarks.report.labels import fitting
from benchmarks.report.tables import MISSING, number

_LONGEST_NAME = 48


def beside(groups: Sequence[Group], chosen: str) -> str:
    """Tables of all groups that have the chosen agent, and a sentence on how to read them.

    Args:
        groups: The groups.
        chosen: The agent as its table names it, or the beginning of one name alone.

    Raises:
        ValueError: No group has such an agent with a score, or a group has several.
    """
    texts = [text for group in groups if (text := _table(group, chosen))]
    if not texts:
        names = sorted({name for group in groups for name in _labels(group).values()})
        raise ValueError(f"against: no agent {chosen!r} has a score; there are {', '.join(names)}")
    return "\n\n".join([*texts, wrapped(_READING)])


_READING = (
    "Δ is the interquartile mean of the per-seed differences, with the 95% interval of this pair"
    " alone; P(better) is the probability that a run is better than one of the chosen agent. apart:"
    f" by paired t-tests from {RANKED_FROM} seeds on, with a chance of {FALSE_CALLS:.0%} that any"
    " agent of the table is called so falsely (Holm)."
)


def _table(group: Group, chosen: str) -> str:
    name = _named(group, chosen)
    better = families.direction(SCORE, group.family)
    if name is None or better is None:
        return ""
    runs = {agent: own for agent in group.rows if (own := group.runs(agent, SCORE))}
    if name not in runs:
        return ""
    labels = _labels(group)
    lacking = [one for one in group.standings if one.lacking and one.agent in runs]
    told = "".join(
        f"\n{wrapped(f'{one.label} has {one.seeds} seeds, and is not compared.')}"
        for one in lacking
    )
    if name in (one.agent for one in lacking):
        return f"{wrapped(f'{group.label or group.title}, against {labels[name]}')}{told}"
    for one in lacking:
        del runs[one.agent]
    found = against(runs, name, better)
    names = fitting([labels[agent] for agent in runs], _LONGEST_NAME)
    lines = [
        [
            names[labels[agent]],
            str(one.difference.n),
            _difference(one.difference.estimate, one.difference.low, one.difference.high),
            f"{one.better:.2f}",
            MISSING if one.p is None else ("yes" if one.apart else "no"),
        ]
        for agent, one in sorted(found.items(), key=lambda item: -item[1].difference.estimate)
    ]
    head = ["agent", "n", "Δ score", "P(better)", "apart"]
    title = wrapped(f"{group.label or group.title}, against {labels[name]}")
    return "\n".join([title, *aligned([head, *lines], left={0})]) + told


def _named(group: Group, chosen: str) -> str | None:
    """The full name of the chosen agent in a group; None where it has none.

    Raises:
        ValueError: Several names begin so.
    """
    labels = _labels(group)
    named = [name for name, label in labels.items() if chosen in (name, label)]
    named = named or [name for name, label in labels.items() if label.startswith(chosen)]
    if len(named) > 1:
        found = ", ".join(labels[name] for name in named)
        raise ValueError(
            f"against: {chosen!r} begins the names of {len(named)} agents of"
            f" {group.label or group.title}: {found}; give one in full"
        )
    return named[0] if named else None


def _labels(group: Group) -> dict[str, str]:
    """By full name of an agent what tables call it."""
    return {standing.agent: standing.label for standing in group.standings}


def _difference(estimate: float, low: float | None, high: float | None) -> str:
    text = f"{'+' if estimate > 0 else ''}{number(estimate)}"
    if low is None or high is None:
        return text
    return f"{text} [{number(low, estimate)}, {number(high, estimate)}]"
