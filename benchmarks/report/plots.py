"""The figures of a group, each where the group has data for it, and their files."""

from __future__ import annotations

import io
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

from benchmarks.report.aggregate import Group
from benchmarks.report.curves import profile_figure, retention_figure, trade_off_figure
from benchmarks.report.looks import Palette
from benchmarks.report.panels import depth_figure, intervals_figure

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
