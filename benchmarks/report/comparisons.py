"""Who is better than whom: paired tests of agents over seeds, with the chance of a false call held
at 5% for all comparisons of a table together.

Two agents that have a seed in common have its network, data and goal in common too, so they are
compared by their difference on each seed. Over many pairs some differ by chance alone: of 20 equal
agents with 10 seeds, intervals that are looked at one by one call a pair apart in most tables. Here
p-values go through Holm's procedure (Holm 1979, "A Simple Sequentially Rejective Multiple Test
Procedure"), which needs nothing of how the tests hang together.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report.estimates import Interval, Runs, paired_difference
from benchmarks.report.families import Direction

RANKED_FROM = 10  # seeds: with fewer, hardly a difference passes the test of all pairs
FALSE_CALLS = 0.05  # the chance of one or more of them in a table
# What a difference of scores may be off by, as a share of the largest score of its task.
_ROUNDING = 64 * sys.float_info.epsilon


@dataclass(frozen=True)
class Rank:
    """An agent's place: 1 + the number of agents that are significantly better."""

    rank: int
    beaten_by: tuple[str, ...]


@dataclass(frozen=True)
class Against:
    """An agent beside one chosen agent.

    Attributes:
        difference: Interval of the per-seed difference, agent − chosen one, of this pair alone.
        better: Probability that a run of the agent is better than one of the chosen agent, ties
            counted half (Agarwal et al. 2021, sect. 4.3).
        p: Holm's adjusted p-value among all agents of the table; None with too few seeds.
    """

    difference: Interval
    better: float
    p: float | None

    @property
    def apart(self) -> bool:
        """Whether the two differ, at a chance of 5% that any agent of the table is called so
        falsely.
        """
        return self.p is not None and self.p <= FALSE_CALLS


def ranks(agents: Mapping[str, Runs], direction: Direction) -> dict[str, Rank]:
    """The rank of every agent that has `RANKED_FROM` seeds or more in common with another; ties
    share a rank.

    One agent is better than another where Holm's p-value of their paired test, among the tests of
    all pairs, is at most 5%.
    """
    enough = [
        name
        for name, runs in agents.items()
        if max(map(len, runs.values()), default=0) >= RANKED_FROM
    ]
    largest = {name: _largest(agents[name]) for name in enough}
    pairs = list(itertools.combinations(enough, 2))
    tests = [
        _paired_test(agents[one], agents[other], largest[one], largest[other])
        for one, other in pairs
    ]
    known = [(pair, test) for pair, test in zip(pairs, tests, strict=True) if test is not None]
    adjusted = holm([test.p for _, test in known])
    beaten_by: dict[str, list[str]] = {}
    for ((first, second), test), p in zip(known, adjusted, strict=True):
        beaten_by.setdefault(first, [])
        beaten_by.setdefault(second, [])
        if p <= FALSE_CALLS:
            first_is_better = (test.mean > 0) == (direction == "higher")
            winner, loser = (first, second) if first_is_better else (second, first)
            beaten_by[loser].append(winner)
    return {
        name: Rank(1 + len(beaten_by[name]), tuple(beaten_by[name]))
        for name in agents
        if name in beaten_by
    }


def against(agents: Mapping[str, Runs], chosen: str, direction: Direction) -> dict[str, Against]:
    """Every other agent that has a seed in common with the chosen one, beside it."""
    reference = agents[chosen]
    differences = {
        name: difference
        for name, runs in agents.items()
        if name != chosen and (difference := paired_difference(runs, reference)) is not None
    }
    tests = {name: paired_test(agents[name], reference) for name in differences}
    known = {name: test.p for name, test in tests.items() if test is not None}
    adjusted = dict(zip(known, holm(list(known.values())), strict=True))
    return {
        name: Against(
            difference,
            improvement(agents[name], reference, direction),
            adjusted.get(name),
        )
        for name, difference in differences.items()
    }


@dataclass(frozen=True)
class PairedTest:
    """A test of the hypothesis that two agents' scores are the same on average.

    Attributes:
        mean: Mean per-seed difference, over tasks.
        p: The two-sided p-value.
    """

    mean: float
    p: float


def paired_test(a: Runs, b: Runs) -> PairedTest | None:
    """Student's paired t-test of a − b over seeds; None with fewer than `RANKED_FROM` seeds in
    common.

    The environments of a task have a seed's network in common: their mean difference is one
    observation. Of several tasks the mean of their means is tested, with the degrees of freedom of
    Welch and Satterthwaite.
    """
    return _paired_test(a, b, _largest(a), _largest(b))


def _paired_test(
    a: Runs, b: Runs, largest_a: Mapping[str, float], largest_b: Mapping[str, float]
) -> PairedTest | None:
    """The same, where the largest sizes of the scores, by task, are known already."""
    by_task = {task: np.array(own, dtype=float) for task, own in _differences(a, b).items()}
    samples = list(by_task.values())
    if not samples or min(map(len, samples)) < RANKED_FROM:
        return None
    means = [float(np.add.reduce(one)) / len(one) for one in samples]
    mean = sum(means) / len(means)
    rounding = [_ROUNDING * max(largest_a[task], largest_b[task]) for task in by_task]
    parts = []  # of each task's mean
    for one, middle, least in zip(samples, means, rounding, strict=True):
        variance = float(np.add.reduce((one - middle) ** 2)) / (len(one) - 1)
        # Where all differences are the same, nothing but rounding is left of it.
        parts.append(variance / len(one) if variance > least**2 else 0.0)
    if not any(parts):
        return PairedTest(mean, 0.0 if abs(mean) > sum(rounding) / len(rounding) else 1.0)
    shares = [part / max(parts) for part in parts]  # squares of parts may be no numbers any more
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(one) - 1) for share, one in zip(shares, samples, strict=True)
    )
    t = mean * len(samples) / sum(parts) ** 0.5
    return PairedTest(mean, _two_sided(t, freedom))


def _largest(runs: Runs) -> dict[str, float]:
    """The largest size of a score, by task."""
    found: dict[str, float] = {}
    for stratum, own in runs.items():
        size = max(map(abs, own.values()), default=0.0)
        found[stratum[0]] = max(size, found.get(stratum[0], 0.0))
    return found


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: those at most α are rejected with a family-wise error of at most
    α.
    """
    adjusted = [0.0] * len(p)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = largest
    return adjusted


def improvement(a: Runs, b: Runs, direction: Direction) -> float:
    """Probability of improvement: of a run of `a` over one of `b`, mean over what both did (Agarwal
    et al. 2021, sect. 4.3).
    """
    sign = 1 if direction == "higher" else -1
    shares = []
    for stratum in a.keys() & b.keys():
        ours, theirs = (np.array(list(runs[stratum].values())) for runs in (a, b))
        signs = np.sign(sign * (ours[:, None] - theirs[None, :]))
        shares.append(float((signs + 1).mean() / 2))
    return float(np.mean(shares))


def _differences(a: Runs, b: Runs) -> dict[str, list[float]]:
    """By task, the differences of the seeds that both have in every environment that both did."""
    by_task: dict[str, list[Mapping[int, float]]] = {}
    for stratum in a:
        if stratum in b:
            common = a[stratum].keys() & b[stratum].keys()
            own = {seed: a[stratum][seed] - b[stratum][seed] for seed in sorted(common)}
            by_task.setdefault(stratum[0], []).append(own)
    return {
        task: list(environments[0].values())
        if len(environments) == 1
        else [
            float(np.mean([own[seed] for own in environments]))
            for seed in environments[0]
            if all(seed in own for own in environments)
        ]
        for task, environments in by_task.items()
    }


def _two_sided(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|) of Student's t."""
    from scipy.special import stdtr  # loads in a tenth of the time of scipy.stats

    return float(2 * stdtr(freedom, -abs(t)))
