"""Figures of a group: intervals, performance profile, trade-off, depth of forgetting, and
retention.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.aggregate import SCORE, Estimate, Group, Standing
from benchmarks.report.estimates import DIRECTIONS, interquartile_mean, performance_profile
from benchmarks.report.tables import metric_label

Color = str | tuple[float, float, float]


class Look(NamedTuple):
    """How an agent is drawn; no two agents of a report look alike."""

    color: Color
    line: str | tuple[int, tuple[float, ...]]
    marker: str


Palette = Mapping[str, Look]

# What an agent gives up (x) for what it gains (y), or the other way round.
TRADE_OFFS = {
    "unlearning": ("forget_accuracy", "retain_accuracy"),
    "debiasing": ("general_accuracy", "unbiased_accuracy"),
    "lifelong": ("locality", "reliability"),
}
# How deep forgetting goes, by what the class looks like to somebody who asks again; each with what
# 1 is on its axis.
DEPTH = {"probe_accuracy": 1.0, "relearn_steps": 500.0, "mia_advantage": 1.0}
_MARKERS = "osD^vPX*<>hp"
_LEGEND_INCHES = 6.0  # about as tall as a column of a legend gets
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a929c",
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "text.color": "#1c2430",
    "axes.labelcolor": "#1c2430",
    "legend.frameon": False,
}


def palette(groups: Sequence[Group]) -> Palette:
    """One look for each agent, the same in all figures: ten colours, each with several lines and
    markers.
    """
    agents = sorted({standing.agent for group in groups for standing in group.standings})
    colors = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    return {
        agent: Look(
            colors[i % len(colors)],
            _line(i // len(colors)),
            _MARKERS[i // len(colors) % len(_MARKERS)],
        )
        for i, agent in enumerate(agents)
    }


def figures(group: Group, looks: Palette) -> dict[str, Figure]:
    """The figures that the group has data for, by name: `intervals profile trade-off depth
    retention`.
    """
    with matplotlib.rc_context(_STYLE):
        drawn = {
            "intervals": intervals_figure(group, looks),
            "profile": profile_figure(group, looks),
            "trade-off": trade_off_figure(group, looks),
            "depth": depth_figure(group, looks),
            "retention": retention_figure(group, looks),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def render(figure: Figure, kind: Literal["png", "svg"], name: str) -> bytes:
    """The figure as a file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def intervals_figure(group: Group, looks: Palette) -> Figure | None:
    """One panel for each metric that has a better side: point and 95% interval of every agent."""
    keys = [key for key in group.metrics if key in DIRECTIONS and not key.endswith("_before")]
    agents = [standing for standing in group.standings if standing.metrics]
    if not keys:
        return None
    columns = min(4, len(keys))
    rows = -(-len(keys) // columns)
    names, places, height = _places(agents)
    figure = Figure(figsize=(1.8 + 2.4 * columns, rows * (0.8 + 0.26 * height)))
    figure.set_layout_engine("constrained", h_pad=0.1)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes.flat, keys, strict=False):
        axis.set_title(metric_label(key))
        for y, standing in zip(places, agents, strict=True):
            estimate = standing.metrics.get(key)
            if estimate is not None:
                low, high = (
                    estimate.iqm if end is None else end for end in (estimate.low, estimate.high)
                )
                axis.barh(
                    y,
                    high - low,
                    left=low,
                    height=0.55,
                    color=looks[standing.agent].color,
                    alpha=0.35,
                )
                axis.plot(estimate.iqm, y, "o", color=looks[standing.agent].color, markersize=5)
        axis.set_yticks(places, names)
        axis.locator_params(axis="x", nbins=4)
        axis.use_sticky_edges = (
            False  # or a dot at a bar's end, such as an accuracy of 0, is cut in half
        )
        axis.margins(x=0.08)
    axes[0, 0].set_ylim(height - 0.4, -0.6)  # best at the top
    return figure


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
                label=_wrapped(standing.agent),
            )
    if not axis.lines:
        return None
    axis.set(
        xlabel=f"{SCORE.replace('_', ' ')} τ",
        ylabel="share of runs with more than τ",
        ylim=(-0.03, 1.03),
        title="Performance profile",
    )
    _legend(figure)
    return figure


def trade_off_figure(group: Group, looks: Palette) -> Figure | None:
    """Both sides of the family's trade-off: every run as a small dot, interquartile means with 95%
    intervals.
    """
    x_key, y_key = TRADE_OFFS.get(group.family or "", (SCORE, SCORE))
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
            label=_wrapped(standing.agent),
        )
    if not axis.lines:
        return None
    axis.set(xlabel=metric_label(x_key), ylabel=metric_label(y_key), title="Trade-off")
    axis.margins(0.08)
    _legend(figure)
    return figure


def depth_figure(group: Group, looks: Palette) -> Figure | None:
    """Accuracies of every agent beside what a probe finds, relearning takes and membership tells;
    one row an agent.

    In the first panel the retain accuracy (filled) and the forget accuracy (hollow): far apart is
    what was asked for. The dashed line is the unedited network: a probe that finds as much says
    that the class is hidden, not gone.
    """
    agents = [standing for standing in group.standings if "probe_accuracy" in standing.metrics]
    if not agents:
        return None
    names, places, height = _places(agents)
    figure = Figure(figsize=(11.4, 1.2 + 0.26 * height), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(DEPTH), sharey=True, squeeze=False)[0]
    first.set(title="retain ● and forget ○ accuracy", xlim=(-0.04, 1.04))
    for y, standing in zip(places, agents, strict=True):
        for key, face in (("retain_accuracy", None), ("forget_accuracy", "white")):
            if key in standing.metrics:
                _spread(first, y, standing.metrics[key], looks[standing.agent].color, face)
    for axis, (key, most) in zip(others, DEPTH.items(), strict=True):
        axis.set(title=metric_label(key), xlim=(-0.04 * most, 1.04 * most))
        for y, standing in zip(places, agents, strict=True):
            if key in standing.metrics:
                _spread(axis, y, standing.metrics[key], looks[standing.agent].color)
    before = [
        standing.metrics["probe_accuracy_before"].iqm
        for standing in agents
        if "probe_accuracy_before" in standing.metrics
    ]
    if before:
        others[0].axvline(float(np.mean(before)), color="#8a929c", linestyle="--", linewidth=1)
    first.set_yticks(places, names)
    first.set_ylim(height - 0.4, -0.6)  # best at the top
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
                label=_wrapped(standing.agent),
            )
    if not axis.lines:
        return None
    axis.set(xlabel="edits made since", ylabel="reliability", ylim=(-0.03, 1.03), title="Retention")
    _legend(figure)
    return figure


def _places(agents: Sequence[Standing]) -> tuple[list[str], list[float], float]:
    """Names beside a panel, the y of each from 0 at the top, and how many rows of one name they
    take in all.

    Two lines of a name fit into a row; longer ones take more, or they would cover their neighbours.
    """
    names = [_wrapped(standing.agent) for standing in agents]
    heights = [max(1.0, 0.6 * (1 + name.count("\n"))) for name in names]
    ends = list(itertools.accumulate(heights))
    return (
        names,
        [end - height / 2 - 0.5 for end, height in zip(ends, heights, strict=True)],
        sum(heights),
    )


def _spread(
    axis: Axes, y: float, estimate: Estimate, color: Color, face: str | None = None
) -> None:
    """An estimate as a dot with its interval as a line."""
    ends = [estimate.iqm if end is None else end for end in (estimate.low, estimate.high)]
    axis.plot(ends, [y, y], color=color, linewidth=3, alpha=0.35, solid_capstyle="butt")
    axis.plot(estimate.iqm, y, "o", color=color, markersize=5, markerfacecolor=face or color)


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    return figure, figure.subplots()


def _line(index: int) -> str | tuple[int, tuple[float, ...]]:
    """Another line for every index: solid, dashed, dotted, then dashes of ever more dots."""
    return ("-", "--", ":")[index] if index < 3 else (0, (5, 1.5, *(1, 1.5) * (index - 2)))


def _legend(figure: Figure) -> None:
    """Beside the axes: agents that tie lie on top of each other, and so would their names; the
    figure makes room.
    """
    handles, names = figure.axes[0].get_legend_handles_labels()
    inches = [0.16 * (1 + name.count("\n")) + 0.07 for name in names]
    columns = max(1, math.ceil(sum(inches) / _LEGEND_INCHES))
    tallest = max(sum(part) for part in np.array_split(inches, columns))
    figure.set_size_inches(4.2 + 2.2 * columns, max(3.6, tallest + 0.4))
    figure.legend(handles, names, loc="outside right upper", ncols=columns)


def _error(middle: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """Lengths of an error bar's arms; an interquartile mean may lie a rounding error outside of its
    interval.
    """
    return (
        None
        if low is None or high is None
        else [[max(0.0, middle - low)], [max(0.0, high - middle)]]
    )


def _wrapped(name: str) -> str:
    """A name that fits beside a panel; `package.module:Class` is best broken before its class."""
    return "\n".join(textwrap.fill(part, 28) for part in name.replace(":", ":\n").split("\n"))
