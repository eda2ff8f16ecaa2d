"""Figures in one pair of axes: performance profile, trade-off, and retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import families, svg
from benchmarks.report.aggregate import Group
from benchmarks.report.estimates import (
    PROVISIONAL_BELOW,
    Stratum,
    iqm_interval,
    performance_profile,
)
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.looks import Palette
from benchmarks.report.standings import Estimate, Standing
from benchmarks.report.strata import STRATUM
from benchmarks.report.svg import Panel, Scale
from benchmarks.report.tables import estimate_text, number
from benchmarks.results import Row

_WIDTH, _HEIGHT = 440, 300
_X, _Y = (52, _WIDTH - 14), (_HEIGHT - 44, 26)
_AGES = 20  # points of a retention curve where runs have ages of their own
_SMOOTHED = 1 / 8  # of the range of ages: how far off a neighbour counts


class Point(NamedTuple):
    """A point of a retention curve, with the ends of its band."""

    age: float
    reliability: float
    low: float
    high: float


def profile_panel(group: Group, agents: Sequence[Standing], looks: Palette) -> Panel | None:
    """Performance profile: share of runs whose score is above a threshold, with 95% bands from five
    seeds on.
    """
    thresholds = np.linspace(0, 1, 101)
    x, y = Scale(0, 1, *_X), Scale(-0.03, 1.03, *_Y)
    drawn = [standing for standing in agents if group.runs(standing.agent, SCORE)]
    bands, lines = [], []
    for place, standing in enumerate(drawn):
        look = looks[standing.agent]
        edges = performance_profile(group.runs(standing.agent, SCORE), thresholds)
        share, low, high = (_steps(thresholds, edge, x, y) for edge in edges)
        if not standing.provisional:
            bands.append(svg.series(place, svg.band(high, low, look)))
        lines.append(svg.series(place, svg.line(share, look, standing.label)))
    score = SCORE.replace("_", " ")
    axes = svg.frame("Performance profile", x, y, f"{score} τ", "share of runs with more than τ")
    return _panel("Performance profile", [axes, *bands, *lines], drawn)


def trade_off_panel(group: Group, agents: Sequence[Standing], looks: Palette) -> Panel | None:
    """Both sides of the family's trade-off: every run as a small dot, interquartile means with 95%
    intervals.
    """
    keys = FAMILIES[group.family].trade_off if group.family else (SCORE, SCORE)
    drawn = [standing for standing in agents if all(key in standing.metrics for key in keys)]
    if not drawn:
        return None
    runs = [_pairs(group, standing.agent, keys) for standing in drawn]
    ends = [
        [value for one in drawn for value in _known(one.metrics[key])]
        + [pair[side] for pairs in runs for pair in pairs]
        for side, key in enumerate(keys)
    ]
    x, y = svg.spanning(ends[0], *_X), svg.spanning(ends[1], *_Y)
    small, large = [], []
    for place, (standing, pairs) in enumerate(zip(drawn, runs, strict=True)):
        look = looks[standing.agent]
        dots = [svg.dot(x(a), y(b), look, kind="small", size=2.6) for a, b in pairs]
        small.append(svg.series(place, *dots))
        across, up = (standing.metrics[key] for key in keys)
        whiskers = []
        if across.low is not None and across.high is not None:
            whiskers.append(svg.whisker(x(across.low), y(up.iqm), x(across.high), y(up.iqm), look))
        if up.low is not None and up.high is not None:
            whiskers.append(svg.whisker(x(across.iqm), y(up.low), x(across.iqm), y(up.high), look))
        tip = f"{standing.label}: {estimate_text(across)}, {estimate_text(up)}"
        middle = svg.dot(x(across.iqm), y(up.iqm), look, tip, size=5)
        large.append(svg.series(place, *whiskers, middle))
    axes = svg.frame("Trade-off", x, y, *(families.label(key, group.family) for key in keys))
    return _panel("Trade-off", [axes, *small, *large], drawn)


def retention_panel(group: Group, agents: Sequence[Standing], looks: Palette) -> Panel | None:
    """Reliability of an edit against the number of edits made after it."""
    curves = {standing.agent: retention(group.rows[standing.agent]) for standing in agents}
    drawn = [standing for standing in agents if curves[standing.agent]]
    if not drawn:
        return None
    x = svg.spanning([point.age for points in curves.values() for point in points], *_X, 0.02)
    y = Scale(-0.03, 1.03, *_Y)
    bands, lines = [], []
    for place, standing in enumerate(drawn):
        look, points = looks[standing.agent], curves[standing.agent]
        upper, lower, middle = (
            [(x(point.age), y(getattr(point, side))) for point in points]
            for side in ("high", "low", "reliability")
        )
        tips = [f"{standing.label}: {number(p.reliability)} after {p.age:.0f}" for p in points]
        dots = [svg.dot(*at, look, tip, size=2) for at, tip in zip(middle, tips, strict=True)]
        bands.append(svg.series(place, svg.band(upper, lower, look)))
        lines.append(svg.series(place, svg.line(middle, look, standing.label), *dots))
    axes = svg.frame("Retention", x, y, "edits made since", "reliability")
    return _panel("Retention", [axes, *bands, *lines], drawn)


def _panel(title: str, parts: Sequence[str], drawn: Sequence[Standing]) -> Panel | None:
    """The panel; None where no agent is drawn."""
    agents = tuple(standing.agent for standing in drawn)
    return Panel(title, _WIDTH, _HEIGHT, "".join(parts), agents) if agents else None


def retention(rows: Sequence[Row]) -> list[Point]:
    """The retention curve of an agent's runs: each run's is smoothed by a triangular window, an
    eighth of the range of ages to either side; of the runs the interquartile mean is taken, with
    its 95% interval, or with fewer than five seeds the range of the runs.
    """
    curves = [
        (row, np.array(row["curves"]["retention"], dtype=np.float64))
        for row in rows
        if row["curves"]["retention"]
    ]
    if not curves:
        return []
    ages = _common_ages([curve[:, 0] for _, curve in curves])
    weights = _window(ages)
    values = [weights @ np.interp(ages, curve[:, 0], curve[:, 1]) for _, curve in curves]
    points = []
    for place, age in enumerate(ages):
        at: dict[Stratum, dict[int, float]] = {}
        for (row, _), own in zip(curves, values, strict=True):
            at.setdefault((row["task"] or row["env_id"], row[STRATUM]), {})[row["seed"]] = own[
                place
            ]
        found = iqm_interval(at)
        every = [float(own[place]) for own in values]
        low = min(every) if found.low is None else found.low
        high = max(every) if found.high is None else found.high
        points.append(Point(float(age), found.estimate, low, high))
    return points


def band_words() -> str:
    """What the band of a retention curve is."""
    return f"bands: 95% intervals, with fewer than {PROVISIONAL_BELOW} seeds the range of the runs"


def _common_ages(ages: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The ages of all runs where these are the same, else evenly spaced ones in what all cover."""
    first = ages[0]
    if all(np.array_equal(first, own) for own in ages[1:]):
        return first
    start, end = max(own[0] for own in ages), min(own[-1] for own in ages)
    return np.linspace(start, max(start, end), _AGES if end > start else 1)


def _window(ages: NDArray[np.float64]) -> NDArray[np.float64]:
    """By age the weights of all ages, (n, n): a triangle around each, with a sum of 1."""
    reach = _SMOOTHED * (ages[-1] - ages[0]) or 1.0
    weights = np.maximum(0.0, 1 - np.abs(ages[:, None] - ages[None, :]) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def _pairs(group: Group, agent: str, keys: tuple[str, str]) -> list[tuple[float, float]]:
    """Both metrics of every run that has both."""
    across, up = (group.runs(agent, key) for key in keys)
    return [
        (value, up[stratum][seed])
        for stratum, scores in across.items()
        for seed, value in scores.items()
        if seed in up.get(stratum, {})
    ]


def _known(estimate: Estimate) -> list[float]:
    """The estimate, and both ends of its interval where it has one."""
    return [end for end in (estimate.iqm, estimate.low, estimate.high) if end is not None]


def _steps(
    thresholds: NDArray[np.float64], values: NDArray[np.float64], x: Scale, y: Scale
) -> list[tuple[float, float]]:
    """The corners of a curve of steps: each value holds up to the next threshold."""
    places = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    corners = []
    for place, nearer in zip(places, [*places[1:], len(values) - 1], strict=True):
        height = y(float(values[place]))
        corners += [(x(thresholds[place]), height), (x(thresholds[nearer]), height)]
    return corners
