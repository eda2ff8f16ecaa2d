"""Figures with a line for every agent, best at the top: intervals, and depth of forgetting."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import families
from benchmarks.report.aggregate import Group
from benchmarks.report.looks import Color, Palette, wrapped
from benchmarks.report.standings import Estimate, Standing

# How deep forgetting goes, by what the class looks like to somebody who asks again; each with what
# 1 is on its axis.
DEPTH = {"probe_accuracy": 1.0, "relearn_steps": 500.0, "mia_advantage": 1.0}


def intervals_figure(group: Group, looks: Palette) -> Figure | None:
    """One panel for each metric that has a better side: point and 95% interval of every agent."""
    keys = [
        key
        for key in group.metrics
        if families.direction(key, group.family) and not families.is_before(key)
    ]
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
        axis.set_title(families.label(key, group.family))
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
        axis.set(title=families.label(key, group.family), xlim=(-0.04 * most, 1.04 * most))
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


def _places(agents: Sequence[Standing]) -> tuple[list[str], list[float], float]:
    """Names beside a panel, the y of each from 0 at the top, and how many rows of one name they
    take in all.

    Two lines of a name fit into a row; longer ones take more, or they would cover their neighbours.
    """
    names = [wrapped(standing.agent) for standing in agents]
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
