"""Estimates from rows: interquartile means, and bootstrap intervals over seeds.

The method is that of Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the
Statistical Precipice" (arXiv 2108.13264): interquartile mean (sect. 4.3), percentile intervals of a
bootstrap stratified by task (sect. 4.1), performance profiles (sect. 4.2). One score is one seed's:
edits within a seed are never resampled. The environments of a task have a seed's network and data
in common, so its scores there are drawn together: they are one observation.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_SEED = 0
BOOTSTRAP_SAMPLES = 5_000
CONFIDENCE = 0.95
# Three seeds of one task give a nominal 95% interval a coverage of about 75%.
PROVISIONAL_BELOW = 5

Stratum = tuple[str, str]  # task and environment
Runs = Mapping[Stratum, Mapping[int, float]]  # stratum -> seed -> score


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% interval.

    Attributes:
        estimate: Interquartile mean, or the mean where it is said so.
        low: Lower end; None with fewer seeds than tell anything about the spread, five.
        high: Upper end; None likewise.
        n: Seeds of the stratum that has the fewest.
    """

    estimate: float
    low: float | None
    high: float | None
    n: int

    @property
    def sign(self) -> int:
        """1 or −1 where the whole interval lies above or below zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def interquartile_mean(scores: ArrayLike) -> NDArray[np.float64] | np.float64:
    """Mean of the middle half along the last axis: ⌊n/4⌋ scores are dropped at each end (Agarwal et
    al. 2021, 4.3).

    Args:
        scores: (..., n), n ≥ 1; NaN where there is none, but not everywhere.

    Returns:
        (...).
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)  # NaN last
    n = ordered.shape[-1]
    if not np.isnan(ordered[..., -1]).any():
        middle: NDArray[np.float64] | np.float64 = ordered[..., n // 4 : n - n // 4].mean(axis=-1)
        return middle
    count = (~np.isnan(ordered)).sum(axis=-1, keepdims=True)
    place = np.arange(n)
    inside = (place >= count // 4) & (place < count - count // 4)
    middle = np.where(inside, ordered, 0.0).sum(axis=-1) / inside.sum(axis=-1)
    return middle


def bootstrap(runs: Runs) -> NDArray[np.float64]:
    """Resampled scores: within each task seeds are drawn with replacement, with their scores in all
    its environments.

    Returns:
        (BOOTSTRAP_SAMPLES, strata × seeds), NaN where an environment lacks a seed that another of
        its task has; the same for the same input, since the seed is fixed.
    """
    tables = _tables(runs)
    draws = _draws(tuple(table.shape[1] for table in tables), BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED)
    rows = [own[drawn] for table, drawn in zip(tables, draws, strict=True) for own in table]
    return np.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]


def _tables(runs: Runs) -> list[NDArray[np.float64]]:
    """Each task's scores, (environments, seeds), NaN where there is none."""
    tables = []
    for task in dict.fromkeys(task for task, _ in runs):
        own = [scores for (name, _), scores in runs.items() if name == task]
        seeds = list(dict.fromkeys(seed for scores in own for seed in scores))
        rows = [[scores.get(seed, np.nan) for seed in seeds] for scores in own]
        tables.append(np.array(rows, dtype=np.float64))
    return tables


@functools.lru_cache(maxsize=64)
def _draws(seeds: tuple[int, ...], samples: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """For each task, given by its number of seeds, the places that are drawn: (samples, seeds)."""
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(count, size=(samples, count)) for count in seeds)


def iqm_interval(runs: Runs) -> Interval:
    """Interquartile mean over all strata, with its percentile interval from five seeds on.

    Raises:
        ValueError: There is no score, or a stratum has none.
    """
    if not runs or any(not scores for scores in runs.values()):
        raise ValueError(
            "runs must hold one score or more in each stratum: leave an empty stratum out"
        )
    estimate = float(
        interquartile_mean([score for scores in runs.values() for score in scores.values()])
    )
    n = min(len(scores) for scores in runs.values())
    if n < PROVISIONAL_BELOW:
        return Interval(estimate, None, None, n)
    low, high = _limits(interquartile_mean(bootstrap(runs)))
    return Interval(estimate, float(low), float(high), n)


def mean_interval(scores: Sequence[float]) -> Interval:
    """Mean over seeds, with its 95% percentile bootstrap interval from five seeds on."""
    values = np.asarray(scores, dtype=np.float64)
    n = len(values)
    if n < PROVISIONAL_BELOW:
        return Interval(float(values.mean()), None, None, n)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(n, size=(BOOTSTRAP_SAMPLES, n))
    low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high), n)


def paired_difference(a: Runs, b: Runs) -> Interval | None:
    """Interval of the per-seed difference a − b; None where the two share no seed of any stratum.

    A seed fixes the network as well, so the difference is free of the spread over networks that
    both share.
    """
    differences = {
        stratum: {
            seed: score - b[stratum][seed] for seed, score in scores.items() if seed in b[stratum]
        }
        for stratum, scores in a.items()
        if stratum in b
    }
    paired = {stratum: scores for stratum, scores in differences.items() if scores}
    return iqm_interval(paired) if paired else None


def performance_profile(
    runs: Runs, thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Share of runs that score more than τ, with its pointwise 95% band (Agarwal et al. 2021, sect.
    4.2).

    Args:
        runs: Scores of one agent.
        thresholds: (n_thresholds,), ascending.

    Returns:
        The share, the band's lower and its upper edge, each (n_thresholds,).
    """
    pooled = np.sort([score for scores in runs.values() for score in scores.values()])
    share = 1 - np.searchsorted(pooled, thresholds, side="right") / pooled.size
    resampled = bootstrap(runs)  # (samples, n)
    known = (~np.isnan(resampled)).sum(axis=1)
    # Between two scores of the agent nothing changes; and one threshold at a time: samples × runs ×
    # thresholds at once would take a hundred times the memory.
    steps, places = np.unique(np.searchsorted(pooled, thresholds, side="right"), return_index=True)
    shares = np.stack(
        [(resampled > thresholds[place]).sum(axis=1) / known for place in places], axis=1
    )
    low, high = _limits(shares)
    within = np.searchsorted(steps, np.searchsorted(pooled, thresholds, side="right"))
    return share, low[within], high[within]


def _limits(resampled: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    """Both ends of the percentile interval of resampled estimates, (samples, ...): (2, ...)."""
    tail = 50 * (1 - CONFIDENCE)
    return np.percentile(resampled, [tail, 100 - tail], axis=0)
