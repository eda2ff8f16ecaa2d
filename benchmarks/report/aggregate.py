"""From rows to a leaderboard: groups of comparable rows, and in each the standing of every
agent.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.report.estimates import (
    DIRECTIONS,
    PROVISIONAL_BELOW,
    Interval,
    Rank,
    Stratum,
    iqm_interval,
    ranks,
)
from benchmarks.results import (
    BIAS_METRICS,
    LIFELONG_METRICS,
    METRIC_KEYS,
    TIME_KEYS,
    UNLEARNING_METRICS,
    Row,
    canonical_json,
)
from benchmarks.suites.cells import SUITES, Entry

SCORE = "harmonic_mean"  # what agents are sorted and ranked by
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "unlearning": UNLEARNING_METRICS,
    "debiasing": BIAS_METRICS,
    "lifelong": LIFELONG_METRICS,
}
# Forgetting that this many steps of fine-tuning undo, or that a probe sees through, is shallow.
SHALLOW_STEPS = 10
SHALLOW_PROBE = 0.9

_NOT_IN_TITLE = frozenset(
    {"task", "model_seed", "device"}
)  # nor any other argument that a suite seeds


@dataclass(frozen=True)
class Estimate:
    """One metric of one agent.

    Attributes:
        iqm: Interquartile mean.
        low: Lower end of its interval; None for a single score.
        high: Upper end of its interval; None for a single score.
        n: Seeds.
        rank: None where a metric only describes, or seeds are too few to compare.
        beaten_by: Agents that are significantly better.
    """

    iqm: float
    low: float | None
    high: float | None
    n: int
    rank: int | None = None
    beaten_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """One agent's line in a table.

    Attributes:
        agent: Its name, with what tells it from a namesake of another configuration.
        access: What it may look at.
        n: Finished seeds; in a table over several tasks, of the task that has the fewest.
        provisional: Whether `n` is too small to trust the intervals.
        failed: Number of failed cells.
        unsupported: Why it does not do the task.
        shallow: Whether what it forgot is still in the features, or back after a few steps of
            fine-tuning.
        reward_calls: Median over seeds.
        peak_memory_bytes: Largest of all seeds.
        time: Median over seeds, by the rows' own keys.
        metrics: Estimates by metric key.
    """

    agent: str
    access: str | None
    n: int
    provisional: bool
    failed: int
    unsupported: str | None
    shallow: bool
    reward_calls: int | None
    peak_memory_bytes: int | None
    time: Mapping[str, float | None]
    metrics: Mapping[str, Estimate]

    @property
    def rank(self) -> int | None:
        """Rank by the score; None without a result, or with too few seeds to compare."""
        return self.metrics[SCORE].rank if SCORE in self.metrics else None


@dataclass(frozen=True)
class Group:
    """Rows that may be compared: one suite, one environment with one task, or all tasks of a family
    together.

    Attributes:
        suite: Name of the suite.
        title: What the rows share, for a heading.
        family: Key of `FAMILIES`; None while nothing is finished.
        strata: Environments and tasks that were pooled.
        metrics: Metric keys that some agent has a value of, the score first.
        standings: Best first.
        rows: Finished rows by agent.
        left_out: Agents of a pooled group that have no result in some stratum, and so no place in
            it.
    """

    suite: str
    title: str
    family: str | None
    strata: tuple[str, ...]
    metrics: tuple[str, ...]
    standings: tuple[Standing, ...]
    rows: Mapping[str, Sequence[Row]] = field(repr=False)
    left_out: tuple[str, ...] = ()

    def runs(self, agent: str, key: str) -> dict[Stratum, dict[int, float]]:
        """The agent's values of one metric: task and environment -> seed -> value."""
        return _runs(self.rows[agent], key, self.family)


def group_rows(rows: Sequence[Row]) -> list[Group]:
    """All groups of `rows`: for each suite the families that have several strata, then every
    stratum by itself.
    """
    groups = []
    for suite in dict.fromkeys(row["suite"] for row in rows):
        strata: dict[str, list[Row]] = {}
        for row in rows:
            if row["suite"] == suite:
                strata.setdefault(stratum(row), []).append(row)
        single = [_group(suite, title, [by_label(own)]) for title, own in strata.items()]
        groups += [*_pooled(suite, strata, single), *single]
    return groups


def stratum(row: Row) -> str:
    """Environment and task of a row, and whatever else was asked of the environment."""
    seeded = {entry.seed_kwarg for entry in _entries(row["suite"])}
    extra = {
        key: value for key, value in row["env_kwargs"].items() if key not in _NOT_IN_TITLE | seeded
    }
    return _title(row["env_id"], row["task"], extra)


def _title(env_id: str, task: str | None, extra: Mapping[str, Any]) -> str:
    return " · ".join(
        [env_id, *filter(None, [task]), *(f"{key}={extra[key]}" for key in sorted(extra))]
    )


def _entries(suite: str) -> tuple[Entry, ...]:
    """What a suite compares; nothing of one that is not ours."""
    return SUITES[suite].entries if suite in SUITES else ()


def metric_value(row: Row, key: str, family: str | None) -> float | None:
    """A metric of a finished row, with the score of those families whose rows do not hold one.

    The score is a harmonic mean, so that no side of the trade-off can buy the other: of retain
    accuracy and the drop in forget accuracy (the H-Mean of Zhao et al. 2024, "Continual Forgetting
    for Pre-trained Vision Models", arXiv 2403.11530), or of general and unbiased accuracy.
    """
    metrics: Mapping[str, float | None] = row["metrics"]
    if key != SCORE or family == "lifelong":
        return metrics[key]
    if family == "debiasing":
        parts = [metrics["general_accuracy"], metrics["unbiased_accuracy"]]
    else:
        after, before = metrics["forget_accuracy"], metrics["forget_accuracy_before"]
        parts = [
            metrics["retain_accuracy"],
            None if after is None or before is None else max(0.0, before - after),
        ]
    known = [part for part in parts if part is not None]
    return statistics.harmonic_mean(known) if len(known) == len(parts) else None


def _pooled(
    suite: str, strata: Mapping[str, Sequence[Row]], groups: Sequence[Group]
) -> Iterable[Group]:
    """For each family with several strata to pool, a group of the agents that have a result in
    every one of them.
    """
    apart = {
        _title(entry.env_id, entry.task, entry.env_kwargs)
        for entry in _entries(suite)
        if not entry.pooled
    }
    for family in FAMILIES:
        members = [group for group in groups if group.family == family and group.title not in apart]
        if len(members) < 2:
            continue
        labelled = [
            by_label(_at_one_budget(strata[group.title]), {"device", "reward_calls"})
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
            by_agent.setdefault(name, []).extend(rows)
    finished = {
        name: [row for row in rows if row["status"] == "finished"]
        for name, rows in by_agent.items()
    }
    family = _family(row for rows in finished.values() for row in rows)
    estimates = _estimates(finished, family)
    standings = [_standing(name, rows, estimates[name], family) for name, rows in by_agent.items()]
    keys = dict.fromkeys((SCORE, *FAMILIES[family])) if family else ()
    return Group(
        suite,
        title,
        family,
        strata=tuple(dict.fromkeys(stratum(row) for rows in by_agent.values() for row in rows)),
        metrics=tuple(key for key in keys if any(key in own for own in estimates.values())),
        standings=tuple(sorted(standings, key=_order)),
        rows=finished,
    )


def _estimates(
    finished: Mapping[str, Sequence[Row]], family: str | None
) -> dict[str, dict[str, Estimate]]:
    """Agent -> metric -> estimate, for the metrics that have a value."""
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in finished}
    for key in METRIC_KEYS if family else ():
        runs = {name: _runs(rows, key, family) for name, rows in finished.items()}
        runs = {name: own for name, own in runs.items() if own}
        placed = ranks(runs, DIRECTIONS[key]) if key in DIRECTIONS else {}
        for name, own in runs.items():
            estimates[name][key] = _estimate(iqm_interval(own), placed.get(name))
    return estimates


def _estimate(interval: Interval, place: Rank | None) -> Estimate:
    rank, beaten_by = (None, ()) if place is None else (place.rank, place.beaten_by)
    return Estimate(interval.estimate, interval.low, interval.high, interval.n, rank, beaten_by)


def _runs(rows: Iterable[Row], key: str, family: str | None) -> dict[Stratum, dict[int, float]]:
    runs: dict[Stratum, dict[int, float]] = {}
    for row in rows:
        value = metric_value(row, key, family)
        if value is not None:
            runs.setdefault((row["task"] or row["env_id"], stratum(row)), {})[row["seed"]] = value
    return runs


def _standing(
    name: str, rows: Sequence[Row], metrics: Mapping[str, Estimate], family: str | None
) -> Standing:
    finished = [row for row in rows if row["status"] == "finished"]
    n = min(Counter(stratum(row) for row in finished).values(), default=0)
    reward_calls = _median(row["reward_calls"] for row in finished)
    return Standing(
        agent=name,
        access=next((row["access"] for row in rows if row["access"]), None),
        n=n,
        provisional=0 < n < PROVISIONAL_BELOW,
        failed=sum(row["status"] == "failed" for row in rows),
        unsupported=next((row["error"] for row in rows if row["status"] == "unsupported"), None),
        shallow=family == "unlearning" and _is_shallow(metrics),
        reward_calls=None if reward_calls is None else round(reward_calls),
        peak_memory_bytes=max((row["peak_memory_bytes"] or 0 for row in finished), default=None),
        time={key: _median(row["time"][key] for row in finished) for key in TIME_KEYS},
        metrics=metrics,
    )


def _is_shallow(metrics: Mapping[str, Estimate]) -> bool:
    """Whether at least half of the class was forgotten, but a probe or a few steps bring it
    back.
    """

    def iqm(key: str) -> float | None:
        return metrics[key].iqm if key in metrics else None

    after, before = iqm("forget_accuracy"), iqm("forget_accuracy_before")
    if after is None or before is None or after > before / 2:
        return False
    steps, probe, probe_before = (
        iqm("relearn_steps"),
        iqm("probe_accuracy"),
        iqm("probe_accuracy_before"),
    )
    seen_through = (
        probe is not None and probe_before is not None and probe >= SHALLOW_PROBE * probe_before
    )
    return seen_through or (steps is not None and steps <= SHALLOW_STEPS)


def by_label(rows: Sequence[Row], alike: Set[str] = frozenset()) -> dict[str, list[Row]]:
    """The rows of one stratum by agent; namesakes are told apart by the settings in which they
    differ.

    Args:
        rows: Of one stratum.
        alike: Settings that make no difference. The budget never does where no reward is asked for.

    Returns:
        label -> rows, one for each seed: the last one, a finished one if there is any.
    """
    by_label: dict[str, dict[int, Row]] = {}
    for agent in dict.fromkeys(row["agent"] for row in rows):
        own = [row for row in rows if row["agent"] == agent]
        ignored = alike if any(row["reward_calls"] for row in own) else alike | {"reward_calls"}
        settings = [
            {key: value for key, value in _settings(row).items() if key not in ignored}
            for row in own
        ]
        keys = sorted({key for chosen in settings for key in chosen})
        differing = [
            key for key in keys if len({canonical_json(chosen.get(key)) for chosen in settings}) > 1
        ]
        for row, chosen in zip(own, settings, strict=True):
            values = ", ".join(
                f"{key}={chosen[key]}" for key in differing if chosen.get(key) is not None
            )
            seeds = by_label.setdefault(f"{agent} ({values})" if values else agent, {})
            if row["status"] == "finished" or seeds.get(row["seed"], row)["status"] != "finished":
                seeds[row["seed"]] = row
    return {label: list(seeds.values()) for label, seeds in by_label.items()}


def _at_one_budget(rows: Sequence[Row]) -> list[Row]:
    """The rows of one stratum, of every agent those of one budget: the one that most of them
    have.
    """
    budgets: dict[str, Counter[int | None]] = {}
    for row in rows:
        budgets.setdefault(_apart_from_budget(row), Counter())[
            row["agent_config"].get("reward_calls")
        ] += 1
    usual = {identity: counted.most_common(1)[0][0] for identity, counted in budgets.items()}
    return [
        row
        for row in rows
        if row["agent_config"].get("reward_calls") == usual[_apart_from_budget(row)]
    ]


def _settings(row: Row) -> dict[str, Any]:
    return {**row["agent_config"], "device": row["env_kwargs"].get("device")}


def _apart_from_budget(row: Row) -> str:
    config = {key: value for key, value in row["agent_config"].items() if key != "reward_calls"}
    return canonical_json([row["agent"], config])


def _family(rows: Iterable[Row]) -> str | None:
    """The family that the rows have values of; the rows of one task have values of one."""
    present = {key for row in rows for key, value in row["metrics"].items() if value is not None}
    return next((family for family, keys in FAMILIES.items() if present.intersection(keys)), None)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _order(standing: Standing) -> tuple[float, float, str]:
    """By rank, then by score; agents without a rank come after all others, those without a result
    last.
    """
    score = standing.metrics.get(SCORE)
    if score is None:
        return float("inf"), float("inf"), standing.agent
    return float("inf") if score.rank is None else score.rank, -score.iqm, standing.agent
