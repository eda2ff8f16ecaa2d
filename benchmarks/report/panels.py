"""Figures with a line for every agent, best at the top: intervals, and depth of forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.report import families, svg
from benchmarks.report.aggregate import Group
from benchmarks.report.labels import fitting
from benchmarks.report.looks import Palette
from benchmarks.report.standings import Estimate, Standing
from benchmarks.report.svg import Panel, Scale
from benchmarks.report.tables import estimate_text

# How deep forgetting goes, by what the class looks like to somebody who asks again; each with what
# 1 is on its axis.
DEPTH = {"probe_accuracy": 1.0, "relearn_steps": 500.0, "mia_advantage": 1.0}

_WIDTH = 372
_ROW = 19
_TOP, _BOTTOM = 28, 26
_LONGEST_NAME = 24


def interval_panels(group: Group, agents: Sequence[Standing], looks: Palette) -> list[Panel]:
    """One panel for each metric that has a better side: point and 95% interval of every agent."""
    keys = [
        key
        for key in group.metrics
        if families.direction(key, group.family) and not families.is_before(key)
    ]
    panels = []
    for key in keys:
        measured = [standing for standing in agents if key in standing.metrics]
        ends = [end for one in measured for end in _ends(one.metrics[key])]
        if not ends:
            continue
        x_of = _axis(measured)
        x = svg.spanning(ends, *x_of)

        def drawn(standing: Standing, y: float, x: Scale = x, key: str = key) -> str:
            return _interval(standing, key, x, y, looks)

        panels.append(_panel(families.label(key, group.family), x, measured, drawn))
    return panels


def depth_panels(group: Group, agents: Sequence[Standing], looks: Palette) -> list[Panel]:
    """Accuracies of every agent beside what a probe finds, relearning takes and membership tells.

    In the first panel the retain accuracy (filled) and the forget accuracy (hollow): far apart is
    what was asked for. The dashed line is the unedited network: a probe that finds as much says
    that the class is hidden, not gone.
    """
    measured = [standing for standing in agents if "probe_accuracy" in standing.metrics]
    if not measured:
        return []
    x = Scale(-0.04, 1.04, *_axis(measured))

    def accuracies(standing: Standing, y: float) -> str:
        return _interval(standing, "retain_accuracy", x, y, looks) + _interval(
            standing, "forget_accuracy", x, y, looks, "hollow"
        )

    panels = [_panel("retain ● and forget ○ accuracy", x, measured, accuracies)]
    for key, most in DEPTH.items():
        wide = Scale(-0.04 * most, 1.04 * most, x.start, x.end)

        def drawn(standing: Standing, y: float, wide: Scale = wide, key: str = key) -> str:
            return _interval(standing, key, wide, y, looks)

        found = [
            standing.metrics[before].iqm
            for standing in measured
            if (before := f"{key}{families.BEFORE}") in standing.metrics
        ]
        line = wide(sum(found) / len(found)) if found else None
        panels.append(_panel(families.label(key, group.family), wide, measured, drawn, line))
    return panels


def _panel(
    title: str,
    x: Scale,
    agents: Sequence[Standing],
    drawn: Callable[[Standing, float], str],
    dashed: float | None = None,
) -> Panel:
    """A panel with a row for each agent.

    Args:
        title: What it shows.
        x: The horizontal axis.
        agents: The agents, from the top on.
        drawn: What stands in an agent's row, around a y.
        dashed: Where a dashed line goes, pixels.
    """
    bottom = _TOP + _ROW * len(agents)
    y = Scale(0, 1, bottom, _TOP)
    parts = [svg.heading(title), svg.columns_of(x, y)]
    if dashed is not None:
        parts.append(svg.reference(dashed, y))
    names = _names(agents)
    for place, standing in enumerate(agents):
        middle = _TOP + _ROW * (place + 0.5)
        name = svg.label(x.start - 10, middle + 4, names[standing.label], "end", "name")
        parts += [name, drawn(standing, middle)]
    return Panel(title, _WIDTH, bottom + _BOTTOM, "".join(parts))


def _axis(agents: Sequence[Standing]) -> tuple[float, float]:
    """Where the horizontal axis starts, right of the longest name, and where it ends."""
    return max(map(svg.pixels, _names(agents).values())) + 20, _WIDTH - 14


def _names(agents: Sequence[Standing]) -> dict[str, str]:
    """By label what fits of it."""
    return fitting([standing.label for standing in agents], _LONGEST_NAME)


def _interval(
    standing: Standing, key: str, x: Scale, y: float, looks: Palette, kind: str = ""
) -> str:
    """An estimate as a dot with its interval as a bar; nothing where there is none."""
    estimate = standing.metrics.get(key)
    if estimate is None:
        return ""
    look = looks[standing.agent]
    low, high = _ends(estimate)
    tip = f"{standing.label}: {estimate_text(estimate)}"
    drawn = "" if low == high else svg.bar(x(low), x(high), y, look, tip)
    return drawn + svg.dot(x(estimate.iqm), y, look._replace(marker="o"), tip, kind)


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Both ends of an interval; the estimate where it has none."""
    if estimate.low is None or estimate.high is None:
        return estimate.iqm, estimate.iqm
    return estimate.low, estimate.high
