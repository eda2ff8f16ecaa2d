"""How agents look in figures: a colour, a marker and a dash each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.report.aggregate import Group

# Both sets are read at 3:1 or more against their page, white or near black.
COLORS = (
    *("#2457c5", "#c2410c", "#15803d", "#b91c1c", "#7e22ce"),
    *("#0f766e", "#8a6100", "#be185d", "#475569", "#0369a1"),
)
DARK_COLORS = (
    *("#82aaff", "#fb923c", "#4ade80", "#f87171", "#c084fc"),
    *("#2dd4bf", "#facc15", "#f472b6", "#a8b3c2", "#38bdf8"),
)
MARKERS = "osD^vPX"  # Matplotlib's letters: circle, square, diamond, triangles, plus, cross


class Look(NamedTuple):
    """How an agent is drawn; no two agents of a report look alike.

    Attributes:
        place: Its colour's place among `COLORS` and `DARK_COLORS`.
        dash: Its line's dashes and gaps, pixels; none for a solid line.
        marker: Its marker, a letter of `MARKERS`.
    """

    place: int
    dash: tuple[float, ...]
    marker: str

    @property
    def color(self) -> str:
        """Its colour on white."""
        return COLORS[self.place]


Palette = Mapping[str, Look]


def palette(groups: Sequence[Group]) -> Palette:
    """One look for each agent, the same in all figures."""
    agents = sorted({standing.agent for group in groups for standing in group.standings})
    return {agent: look(index) for index, agent in enumerate(agents)}


def look(index: int) -> Look:
    """Another look for every index: ten colours, each with several dashes and markers."""
    around = index // len(COLORS)
    return Look(index % len(COLORS), _dash(around), MARKERS[around % len(MARKERS)])


def style() -> str:
    """The colours as a style sheet, for light and for dark pages."""
    light, dark = (
        "".join(f"--c{place}:{color};" for place, color in enumerate(colors))
        for colors in (COLORS, DARK_COLORS)
    )
    rules = "".join(f".c{place}{{color:var(--c{place})}}" for place in range(len(COLORS)))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{rules}"


def _dash(around: int) -> tuple[float, ...]:
    """Solid, dashed, dotted, then dashes of ever more dots."""
    return ((), (6, 3), (2, 3))[around] if around < 3 else (8, 3, *(2, 3) * (around - 2))
