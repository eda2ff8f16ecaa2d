"""The leaderboard as a terminal shows it: of every group a table of six columns, and a sentence
that says what it comes to. The rest is in the page.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.comparisons import RANKED_FROM
from benchmarks.report.estimates import PROVISIONAL_BELOW
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.labels import cut, fitting
from benchmarks.report.standings import Estimate, Standing
from benchmarks.report.tables import MISSING, number

WIDTH = 100  # columns of a terminal
_METRICS = 3  # beside rank, agent and seeds
_NO_EDIT = "no_edit"
_LONGEST_NAME = 48
_SHORTEST_NAME = 16  # what a name is cut to at most, before a metric is left out
_LONGEST_HEAD = 24
_GAP = "  "
READING = (
    "A number is the mean of the middle half of the seeds, in brackets its 95% interval (from"
    f" {PROVISIONAL_BELOW} seeds on); a rank is 1 + the agents that are significantly better (from"
    f" {RANKED_FROM} seeds on)."
)


def brief(groups: Sequence[Group], failed: int) -> str:
    """A sentence on how to read the tables, the tables, each with its conclusion, and a sentence
    for each agent that does not do a task.

    Args:
        groups: The groups.
        failed: How many cells failed.
    """
    texts = [text for group in groups if (text := _table(group))]
    head = READING if texts else "No cell is finished yet."
    head += f" Failed cells: {failed}; the page says why." if failed else ""
    return "\n\n".join([wrapped(head), *texts, *_unsupported(groups)])


def _unsupported(groups: Sequence[Group]) -> list[str]:
    """A sentence for each agent that does not do a task: which, and why not the first of them."""
    reasons: dict[str, str] = {}
    where: defaultdict[str, list[str]] = defaultdict(list)
    for group in groups:
        for standing in group.standings:
            if standing.unsupported:
                reasons.setdefault(standing.label, standing.unsupported)
                where[standing.label].append(group.label or group.title)
    return [
        wrapped(f"{agent} does not do {', '.join(titles)}: {reasons[agent]}")
        for agent, titles in where.items()
    ]


def wrapped(text: str) -> str:
    """A text in lines that fit a terminal."""
    return textwrap.fill(text, WIDTH, break_long_words=True, break_on_hyphens=False)


def aligned(lines: Sequence[Sequence[str]], left: Set[int]) -> list[str]:
    """Lines of a table with their columns below each other: to the left the columns in `left`,
    names, and all others, numbers, to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        _GAP.join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _table(group: Group) -> str:
    """The table of a group and its conclusion; empty where nothing is finished."""
    shown = [standing for standing in group.standings if standing.n]
    if not shown:
        return ""
    keys = _keys(group)
    heads = [cut(families.label(key, group.family), _LONGEST_HEAD) for key in keys]
    head = ["rank", "agent", "n", *heads]
    lines = _fitting([head, *(_line(standing, keys) for standing in shown)])
    table = aligned(lines, left={1})
    return "\n".join([wrapped(group.label or group.title), *table, wrapped(conclusion(group))])


def _keys(group: Group) -> list[str]:
    """The score and both sides of the trade-off; the first metrics where no family has them."""
    if group.family is None:
        return list(group.metrics[:_METRICS])
    family = FAMILIES[group.family]
    sides = [part for part in family.parts if part in family.trade_off]
    return [SCORE, *(sides or family.trade_off)]


def _fitting(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Lines of a table that fit a terminal: names are cut, and where that is not enough the last
    columns are left out.
    """
    for count in range(len(lines[0]), 2, -1):
        kept = [list(line[:count]) for line in lines]
        others = [max(map(len, column)) for column in zip(*kept, strict=True)]
        room = WIDTH - sum(others) + others[1] - len(_GAP) * (count - 1)
        if room >= _SHORTEST_NAME:
            break
    longest = min(room, _LONGEST_NAME)
    names = fitting([line[1] for line in kept], longest)
    return [[line[0], names[line[1]], *line[2:]] for line in kept]


def conclusion(group: Group) -> str:
    """One sentence on who comes first, and what may be said of it with so many seeds.

    Who is called better is better among all comparisons of the table together, at a chance of 5%
    that any of them is called so falsely.
    """
    if group.family is None:
        return "No family of metrics says what is best here: the page has all metrics."
    scored = [standing for standing in group.standings if SCORE in standing.metrics]
    if not scored:
        return "No agent has a score yet."
    lacking = [standing for standing in scored if standing.lacking]
    words = _of_lacking(lacking)
    if len(lacking) == len(scored):
        return f"No agent has a {_score_words()} on every seed.{words}"
    scored = [standing for standing in scored if not standing.lacking]
    return f"{_leader(group, scored)}{words}"


def _of_lacking(standings: Sequence[Standing]) -> str:
    """A sentence on agents that lack seeds; empty where there are none."""
    if not standings:
        return ""
    names = fitting([standing.label for standing in standings], _LONGEST_NAME)
    told = ", ".join(f"{names[one.label]} ({one.seeds} seeds)" for one in standings)
    return f" Compared with nobody, since it lacks seeds that others have: {told}."


def _leader(group: Group, scored: Sequence[Standing]) -> str:
    """A sentence on who comes first of those that have every seed."""
    first, *others = scored
    if first.metrics[SCORE].iqm == 0:
        return f"No agent has a {_score_words()} above 0."
    alike = [one for one in others if _written(one) == _written(first)]
    if others and any(one.agent == _NO_EDIT for one in (first, *alike)):
        return f"No agent has a {_score_words()} above that of {_NO_EDIT}, {_value(first, SCORE)}."
    names = fitting([standing.label for standing in group.standings], _LONGEST_NAME)
    score = f"{names[first.label]} has the highest {_score_words()}, {_value(first, SCORE)}"
    level = len(alike)
    score += (
        f" ({'another reaches' if level == 1 else f'{level} others reach'} it)" if level else ""
    )
    if not others:
        every = " on every seed" * any(standing.lacking for standing in group.standings)
        return f"{score}: no other agent has one{every}."
    ranked = [standing for standing in others if standing.rank is not None]
    if first.rank is not None and ranked:
        worse = sum(first.agent in one.metrics[SCORE].beaten_by for one in ranked)
        found = f", and is significantly better than {worse} of {len(ranked)} other agents"
    elif first.n >= PROVISIONAL_BELOW:
        found = f"; with fewer than {RANKED_FROM} seeds nobody is called better"
    else:
        seeds = "1 seed is" if first.n == 1 else f"{first.n} seeds are"
        found = f"; {seeds} too few to call anybody better"
    return f"{score}{found}{_of_black_boxes(first, scored, names)}."


def _of_black_boxes(first: Standing, scored: Sequence[Standing], names: Mapping[str, str]) -> str:
    """Who comes first of those that search by reward alone, where that is somebody else."""
    searching = [one for one in scored if one.access == "reward" and one.reward_calls]
    if not searching or searching[0] is first:
        return ""
    best = searching[0]
    return f"; of those that see rewards alone {names[best.label]} has it, {_value(best, SCORE)}"


def _written(standing: Standing) -> str:
    """The score as it is printed: who differs by less does not differ for a reader."""
    return number(standing.metrics[SCORE].iqm)


def _score_words() -> str:
    return SCORE.replace("_", " ")


def _line(standing: Standing, keys: Sequence[str]) -> list[str]:
    return [
        MISSING if standing.rank is None else str(standing.rank),
        standing.label,
        standing.seeds,
        *(_value(standing, key) for key in keys),
    ]


def _value(standing: Standing, key: str) -> str:
    """A metric's estimate; with its interval where it is the score."""
    estimate: Estimate | None = standing.metrics.get(key)
    if estimate is None:
        return MISSING
    text = number(estimate.iqm)
    if key != SCORE or estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{number(estimate.low, estimate.iqm)}, {number(estimate.high, estimate.iqm)}]"
