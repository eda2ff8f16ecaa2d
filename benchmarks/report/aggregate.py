"""From rows to a leaderboard: groups of comparable rows, and in each the standing of every
agent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.report import families
from benchmarks.report.alike import others
from benchmarks.report.compared import Compared, EntriesOf
from benchmarks.report.comparisons import Rank, ranks
from benchmarks.report.estimates import Interval, Stratum, iqm_interval
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.gaps import given_up_as_failed, lacking_seeds
from benchmarks.report.labels import at_one_budget, by_label, short_names, shorter, told_apart
from benchmarks.report.standings import Estimate, Standing, standing_of
from benchmarks.report.strata import STRATUM, Strata, title
from benchmarks.results import Row, edited_with

# Whose network never saw what is to be forgotten.
ORACLE = "retrain"


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: one suite, one environment with one task, or all tasks of a family
    together.

    Attributes:
        suite: Name of the suite.
        title: What the rows share, for a heading.
        family: Key of `FAMILIES`; None while nothing is finished, or where no family has the
            metrics.
        strata: Environments and tasks that were pooled.
        metrics: Metric keys that some agent has a value of, the score first.
        standings: Best first.
        rows: Finished rows by agent.
        left_out: Agents of a pooled group that have no result in some stratum, and so no place in
            it.
        label: The title in short, where the suite gives it one.
        failed: Cells that failed, also those that an agent gave up which has results on other
            seeds.
    """

    suite: str
    title: str
    family: str | None
    strata: tuple[str, ...]
    metrics: tuple[str, ...]
    standings: tuple[Standing, ...]
    rows: Mapping[str, Sequence[Row]] = field(repr=False)
    left_out: tuple[str, ...] = ()
    label: str = ""
    failed: tuple[str, ...] = ()

    def runs(self, agent: str, key: str) -> dict[Stratum, dict[int, float]]:
        """The agent's values of one metric: task and environment -> seed -> value."""
        return _runs(self.rows[agent], key, self.family)


def group_rows(rows: Sequence[Row], entries_of: EntriesOf = lambda suite: ()) -> list[Group]:
    """All groups of `rows`: for each suite the families that have several strata, then every
    stratum by itself. Rows that were measured on other networks or data than the others of their
    environment and seed have a stratum of their own, and are not pooled.

    Args:
        rows: Rows of one or more suites.
        entries_of: What a suite compares, by its name; nothing where it is not known: then no
            argument is its seed but `model_seed`, and every stratum is pooled.
    """
    groups = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        entries = entries_of(suite)
        division = Strata(entries)
        strata: dict[str, list[Row]] = {}
        known = [row for row in rows if row["suite"] == suite]
        odd = set()
        for row, other in zip(known, others(known), strict=True):
            stratum = division.of(row) + other
            strata.setdefault(stratum, []).append({**row, STRATUM: stratum})
            odd |= {stratum} if other else set()
        single = [
            _group(suite, stratum, [by_label(own, along=division.along)])
            for stratum, own in strata.items()
        ]
        own = [
            _in_short(group, entries, division)
            for group in (
                *_pooled(
                    suite,
                    entries,
                    division,
                    strata,
                    [one for one in single if one.title not in odd],
                ),
                *single,
            )
        ]
        labels = told_apart({group.title: group.label for group in own})
        groups += [replace(group, label=labels[group.title]) for group in own]
    return groups


def _in_short(group: Group, entries: Sequence[Compared], division: Strata) -> Group:
    """The group with the short names that the suite gives it and its agents."""
    again, strata = _scored_again(group, division)
    own = [entry for entry in entries if division.of_entry(entry) in strata]
    names = short_names(
        {standing.agent: group.rows[standing.agent] for standing in group.standings},
        [labelled for entry in own for labelled in entry.labelled],
    )
    titles = [entry.title for entry in own if entry.title] if len(group.strata) == 1 else []
    label = shorter(group.title)
    if titles:
        label = f"{title(own[0].env_id, own[0].task, {})} · {titles[0]}"
    elif again:
        label = shorter(strata[0])
    return replace(
        group,
        label=" · ".join([label, *again]),
        standings=tuple(
            replace(standing, label=names[standing.agent]) for standing in group.standings
        ),
    )


def _scored_again(group: Group, division: Strata) -> tuple[list[str], Sequence[str]]:
    """What edits were scored again with, in words, and the strata that they were made in; nothing,
    and the group's own strata, where they were not scored again.
    """
    row = next((row for rows in group.rows.values() for row in rows), None)
    made = {} if row is None or len(group.strata) > 1 else edited_with(row)
    if row is None or not made:
        return [], group.strata
    before = {key: value for key, value in row["env_kwargs"].items() if key not in made}
    before |= {key: value for key, value in made.items() if value is not None}
    now = ", ".join(f"{key}={row['env_kwargs'].get(key)}" for key in sorted(made))
    return [f"scored again with {now}"], [division.asked(row["env_id"], row["task"], before)]


def metric_value(row: Row, key: str, family: str | None) -> float | None:
    """A metric of a finished row, with the score of those families whose rows do not hold one."""
    metrics: Mapping[str, float | None] = row["metrics"]
    return families.score(metrics, family) if key == SCORE else metrics.get(key)


def _pooled(
    suite: str,
    entries: Sequence[Compared],
    division: Strata,
    strata: Mapping[str, Sequence[Row]],
    groups: Sequence[Group],
) -> Iterable[Group]:
    """For each family with several strata to pool, a group of the agents that have a result in
    every one of them.
    """
    along = division.along
    alone = {division.of_entry(entry) for entry in entries if not entry.pooled}
    for family in FAMILIES:
        members = [group for group in groups if group.family == family and group.title not in alone]
        if len(members) < 2:
            continue
        labelled = [
            by_label(at_one_budget(strata[group.title]), {"device", "reward_calls"}, along)
            for group in members
        ]
        names = dict.fromkeys(name for own in labelled for name in own)
        left_out = tuple(
            name
            for name in names
            if not all(
                any(row["status"] == "finished" for row in own.get(name, ())) for own in labelled
            )
        )
        kept = [
            {name: rows for name, rows in own.items() if name not in left_out} for own in labelled
        ]
        if any(kept):
            yield replace(_group(suite, f"All {family} tasks", kept), left_out=left_out)


def _group(suite: str, title: str, strata: Sequence[Mapping[str, Sequence[Row]]]) -> Group:
    """The group of some strata, each given as label -> rows."""
    by_agent: dict[str, list[Row]] = {}
    for own in strata:
        for name, rows in own.items():
            by_agent.setdefault(name, []).extend(given_up_as_failed(rows))
    lacking = lacking_seeds(by_agent)
    finished = {
        name: [row for row in rows if row["status"] == "finished"]
        for name, rows in by_agent.items()
    }
    measured = dict.fromkeys(
        key
        for rows in finished.values()
        for row in rows
        for key, value in row["metrics"].items()
        if value is not None
    )
    family = families.family_of(measured)
    keys = families.ordered(measured, family)
    estimates = _estimates(finished, keys, family, lacking)
    retrained = (name for name, rows in finished.items() if rows and rows[0]["agent"] == ORACLE)
    oracle = next((estimates[name] for name in retrained), None)
    standings = [
        standing_of(
            name, rows, estimates[name], _counted(rows), family, oracle, lacking.get(name, 0)
        )
        for name, rows in by_agent.items()
    ]
    return Group(
        suite,
        title,
        family,
        strata=tuple(dict.fromkeys(row[STRATUM] for rows in by_agent.values() for row in rows)),
        metrics=tuple(key for key in keys if any(key in own for own in estimates.values())),
        standings=tuple(sorted(standings, key=_order)),
        rows=finished,
        failed=tuple(
            row["cell"] for rows in by_agent.values() for row in rows if row["status"] == "failed"
        ),
    )


def _counted(rows: Sequence[Row]) -> int:
    """Finished rows of the stratum that has the fewest."""
    counts = Counter(row[STRATUM] for row in rows if row["status"] == "finished")
    return min(counts.values(), default=0)


def _estimates(
    finished: Mapping[str, Sequence[Row]],
    keys: Sequence[str],
    family: str | None,
    lacking: Mapping[str, int],
) -> dict[str, dict[str, Estimate]]:
    """Agent -> metric -> estimate, for the metrics that have a value. Who lacks seeds that others
    have has no rank, and beats nobody: it may have failed the seeds that it is bad at.
    """
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in finished}
    intervals: dict[Any, Interval] = {}  # what was measured before an edit, agents have in common
    for key in keys:
        runs = {name: _runs(rows, key, family) for name, rows in finished.items()}
        runs = {name: own for name, own in runs.items() if own}
        better = families.direction(key, family)
        compared = {name: own for name, own in runs.items() if name not in lacking}
        placed = ranks(compared, better) if better else {}
        for name, own in runs.items():
            content = tuple((stratum, tuple(scores.items())) for stratum, scores in own.items())
            if content not in intervals:
                intervals[content] = iqm_interval(own)
            estimates[name][key] = _estimate(intervals[content], placed.get(name))
    return estimates


def _estimate(interval: Interval, place: Rank | None) -> Estimate:
    rank, beaten_by = (None, ()) if place is None else (place.rank, place.beaten_by)
    return Estimate(interval.estimate, interval.low, interval.high, interval.n, rank, beaten_by)


def _runs(rows: Iterable[Row], key: str, family: str | None) -> dict[Stratum, dict[int, float]]:
    runs: dict[Stratum, dict[int, float]] = {}
    for row in rows:
        value = metric_value(row, key, family)
        if value is not None:
            runs.setdefault((row["task"] or row["env_id"], row[STRATUM]), {})[row["seed"]] = value
    return runs


def _order(standing: Standing) -> tuple[bool, bool, float, str]:
    """By score, the best first; then agents that lack seeds, and last those without a result."""
    score = standing.metrics.get(SCORE)
    place = float("inf") if score is None else -score.iqm
    return score is None, standing.lacking > 0, place, standing.agent
