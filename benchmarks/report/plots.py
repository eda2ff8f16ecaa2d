"""The figures of a group, each where the group has data for it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from benchmarks.report import svg
from benchmarks.report.aggregate import Group
from benchmarks.report.curves import band_words, profile_panel, retention_panel, trade_off_panel
from benchmarks.report.estimates import PROVISIONAL_BELOW
from benchmarks.report.looks import Look, Palette
from benchmarks.report.panels import depth_panels, interval_panels
from benchmarks.report.svg import Panel

DRAWN = 40  # agents in a figure; a table has all of them
_CAPTIONS = {
    "intervals": (
        "Interquartile mean (dot) and 95% interval (bar) of every metric that has a better side."
    ),
    "profile": (
        f"The higher a curve, the better; where bands (95%, from {PROVISIONAL_BELOW} seeds on)"
        " overlap, agents may not differ."
    ),
    "trade-off": (
        "Small dots are single runs, large dots interquartile means with their 95% intervals."
    ),
    "depth": (
        "Is the class forgotten or hidden: what a linear probe on the features finds (dashed: in"
        " the unedited network), how many steps bring it back, and whether its training samples can"
        " be told. Short relearning and a probe near the dashed line are shallow; so is a network"
        " that forgot the rest as well."
    ),
    "retention": (
        "How much of an edit is left after more edits have been made, smoothed along the number of"
        f" edits; {band_words()}."
    ),
}


@dataclass(frozen=True)
class Plot:
    """A figure of the report.

    Attributes:
        kind: `intervals`, `profile`, `trade-off`, `depth` or `retention`.
        name: Its file's name without the extension.
        title: What it is of.
        caption: How to read it.
        panels: Its drawings.
        legend: What agents look like, where the drawings do not name them.
    """

    kind: str
    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, Look], ...]

    @property
    def svg(self) -> str:
        """The figure as a file, the same text for the same figure."""
        return svg.picture(self.panels, self.legend)


def figures(group: Group, looks: Palette, slug: str, skipped: Set[str] = frozenset()) -> list[Plot]:
    """The figures that the group has data for.

    Args:
        group: The group; of many agents the best are drawn.
        looks: How agents look.
        slug: What file names begin with.
        skipped: Kinds of figures that are left out.
    """
    measured = [standing for standing in group.standings if standing.metrics]
    agents = measured[:DRAWN]
    labels = {standing.agent: standing.label for standing in agents}
    single = {
        "profile": profile_panel,
        "trade-off": trade_off_panel,
        "retention": retention_panel,
    }
    several = {"intervals": interval_panels, "depth": depth_panels}
    drawn: list[Plot] = []
    for kind in _CAPTIONS:
        if kind in skipped:
            continue
        panels: Sequence[Panel | None] = (
            several[kind](group, agents, looks)
            if kind in several
            else [single[kind](group, agents, looks)]
        )
        found = tuple(panel for panel in panels if panel is not None)
        if found:
            legend = tuple((labels[name], looks[name]) for name in found[0].agents)
            caption = _CAPTIONS[kind] + _left_out(len(measured))
            drawn.append(
                Plot(kind, f"{slug}-{kind}", f"{group.title}, {kind}", caption, found, legend)
            )
    return drawn


def _left_out(agents: int) -> str:
    """What a caption says where not all agents are drawn."""
    return f" The best {DRAWN} of {agents:,} agents are drawn." if agents > DRAWN else ""
