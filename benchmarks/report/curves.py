"""Figures in one pair of axes: performance profile, trade-off, and retention."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.estimates import interquartile_mean, performance_profile
from benchmarks.report.families import FAMILIES, SCORE
from benchmarks.report.looks import Palette, legend, wrapped


def profile_figure(group: Group, looks: Palette) -> Figure | None:
    """Performance profile: share of runs whose score is above a threshold, with 95% bands."""
    thresholds = np.linspace(0, 1, 101)
    figure, axis = _single()
    for standing in group.standings:
        runs = group.runs(standing.agent, SCORE)
        if runs:
            share, low, high = performance_profile(runs, thresholds)
            look = looks[standing.agent]
            axis.fill_between(
                thresholds, low, high, color=look.color, alpha=0.15, linewidth=0, step="post"
            )
            axis.step(
                thresholds,
                share,
                where="post",
                color=look.color,
                linestyle=look.line,
                label=wrapped(standing.agent),
            )
    if not axis.lines:
        return None
    axis.set(
        xlabel=f"{SCORE.replace('_', ' ')} τ",
        ylabel="share of runs with more than τ",
        ylim=(-0.03, 1.03),
        title="Performance profile",
    )
    legend(figure)
    return figure


def trade_off_figure(group: Group, looks: Palette) -> Figure | None:
    """Both sides of the family's trade-off: every run as a small dot, interquartile means with 95%
    intervals.
    """
    x_key, y_key = FAMILIES[group.family].trade_off if group.family else (SCORE, SCORE)
    figure, axis = _single()
    for standing in group.standings:
        x, y = standing.metrics.get(x_key), standing.metrics.get(y_key)
        if x is None or y is None:
            continue
        look = looks[standing.agent]
        runs_x, runs_y = group.runs(standing.agent, x_key), group.runs(standing.agent, y_key)
        both = [
            (scores[seed], runs_y[stratum][seed])
            for stratum, scores in runs_x.items()
            if stratum in runs_y
            for seed in scores
            if seed in runs_y[stratum]
        ]
        axis.plot(
            *np.transpose(both),
            look.marker,
            color=look.color,
            markersize=3.5,
            alpha=0.4,
            markeredgewidth=0,
        )
        axis.errorbar(
            x.iqm,
            y.iqm,
            xerr=_error(x.iqm, x.low, x.high),
            yerr=_error(y.iqm, y.low, y.high),
            fmt=look.marker,
            color=look.color,
            markersize=7,
            markeredgecolor="white",
            label=wrapped(standing.agent),
        )
    if not axis.lines:
        return None
    x_label, y_label = (families.label(key, group.family) for key in (x_key, y_key))
    axis.set(xlabel=x_label, ylabel=y_label, title="Trade-off")
    axis.margins(0.08)
    legend(figure)
    return figure


def retention_figure(group: Group, looks: Palette) -> Figure | None:
    """Reliability of an edit against the number of edits made after it, interquartile mean over
    runs.
    """
    figure, axis = _single()
    for standing in group.standings:
        at_age: dict[float, list[float]] = {}
        for row in group.rows[standing.agent]:
            for age, reliability in row["curves"]["retention"] or ():
                at_age.setdefault(age, []).append(reliability)
        if at_age:
            ages = sorted(at_age)
            look = looks[standing.agent]
            axis.plot(
                ages,
                [interquartile_mean(at_age[age]) for age in ages],
                color=look.color,
                linestyle=look.line,
                label=wrapped(standing.agent),
            )
    if not axis.lines:
        return None
    axis.set(xlabel="edits made since", ylabel="reliability", ylim=(-0.03, 1.03), title="Retention")
    legend(figure)
    return figure


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    return figure, figure.subplots()


def _error(middle: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """Lengths of an error bar's arms; an interquartile mean may lie a rounding error outside of its
    interval.
    """
    return (
        None
        if low is None or high is None
        else [[max(0.0, middle - low)], [max(0.0, high - middle)]]
    )
