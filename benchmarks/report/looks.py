"""How agents look in figures: colours, lines, markers, names that fit, and a legend with room."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.report.aggregate import Group

Color = str | tuple[float, float, float]


class Look(NamedTuple):
    """How an agent is drawn; no two agents of a report look alike."""

    color: Color
    line: str | tuple[int, tuple[float, ...]]
    marker: str


Palette = Mapping[str, Look]

_MARKERS = "osD^vPX*<>hp"
_LEGEND_INCHES = 6.0  # about as tall as a column of a legend gets


def palette(groups: Sequence[Group]) -> Palette:
    """One look for each agent, the same in all figures: ten colours, each with several lines and
    markers.
    """
    agents = sorted({standing.agent for group in groups for standing in group.standings})
    return {agent: look(index) for index, agent in enumerate(agents)}


def look(index: int) -> Look:
    """Another look for every index."""
    colors = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    around = index // len(colors)
    return Look(colors[index % len(colors)], _line(around), _MARKERS[around % len(_MARKERS)])


def wrapped(name: str) -> str:
    """A name that fits beside a panel; `package.module:Class` is best broken before its class."""
    return "\n".join(textwrap.fill(part, 28) for part in name.replace(":", ":\n").split("\n"))


def legend(figure: Figure) -> None:
    """Beside the axes: agents that tie lie on top of each other, and so would their names; the
    figure makes room.
    """
    handles, names = figure.axes[0].get_legend_handles_labels()
    inches = [0.16 * (1 + name.count("\n")) + 0.07 for name in names]
    columns = max(1, math.ceil(sum(inches) / _LEGEND_INCHES))
    tallest = max(sum(part) for part in np.array_split(inches, columns))
    figure.set_size_inches(4.2 + 2.2 * columns, max(3.6, tallest + 0.4))
    figure.legend(handles, names, loc="outside right upper", ncols=columns)


def _line(index: int) -> str | tuple[int, tuple[float, ...]]:
    """Another line for every index: solid, dashed, dotted, then dashes of ever more dots."""
    return ("-", "--", ":")[index] if index < 3 else (0, (5, 1.5, *(1, 1.5) * (index - 2)))
