"""Drawings as SVG text, in the reader's colours: axes, dots, lines, bands.

A drawing names its colours by the classes `c0` … `c9` and the variables `--ink`, `--soft`, `--line`
and `--card`, which the page that shows it, or the file's own style sheet, gives a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.report.labels import fitting
from benchmarks.report.looks import Look, style

_CHARACTER = 6.2  # pixels that a character of the small print takes on average
_STYLE = (
    ":root{color-scheme:light dark;--ink:#1c2430;--soft:#55616f;--line:#e3e7ec;--card:#fff}"
    "@media (prefers-color-scheme:dark)"
    "{:root{--ink:#e6eaf0;--soft:#a3afbd;--line:#2c3643;--card:#1a212b}}"
)
CHART_STYLE = (
    "svg.chart{font:11px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    ".chart text{fill:var(--soft)}.chart .title{fill:var(--ink);font-size:12px;font-weight:600}"
    ".chart .name{fill:var(--ink)}.chart .grid{stroke:var(--line)}"
    ".chart .band{fill:currentColor;opacity:.16}.chart .bar{fill:currentColor;opacity:.35}"
    ".chart .line{fill:none;stroke:currentColor;stroke-width:1.8}"
    ".chart .thin{stroke:currentColor;stroke-width:1.4;opacity:.7}"
    ".chart .dot{fill:currentColor;stroke:currentColor}.chart .hollow{fill:var(--card)}"
    ".chart .small{opacity:.4;stroke:none}.chart .reference{stroke:var(--soft)}"
)


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` along the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside, one for about each sixty pixels."""
        count = max(2, round(abs(self.end - self.start) / 60))
        rough = (self.high - self.low) / count
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(size for size in (1, 2, 5, 10) if size * unit >= 0.75 * rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [place * step for place in range(first, last + 1)]


def spanning(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """The scale that holds all values, with some room at both ends."""
    low, high = min(values), max(values)
    apart = 0.0 if math.isclose(low, high) else high - low  # means of equal numbers are not equal
    room = margin * apart or 0.05 * abs(high) or 0.05
    return Scale(low - room, high + room, start, end)


@dataclass(frozen=True)
class Panel:
    """A drawing in one pair of axes.

    Attributes:
        title: What it shows.
        width: Pixels.
        height: Pixels.
        body: SVG elements.
        agents: The agents that it draws and does not name, in the order of their `series`.
    """

    title: str
    width: int
    height: int
    body: str
    agents: tuple[str, ...] = ()

    def svg(self) -> str:
        """The panel by itself, to be shown inside of a page that has the style sheets."""
        return (
            f'<svg class="chart" role="img" aria-label="{escape(self.title)}"'
            f' viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
            f' height="{self.height}">{self.body}</svg>'
        )


Legend = Sequence[tuple[str, Look]]


def picture(panels: Sequence[Panel], legend: Legend, columns: int = 3) -> str:
    """Panels side by side and the legend below them, as a file that needs no other."""
    wide = max(panel.width for panel in panels)
    columns = min(columns, len(panels))
    parts, top = [], 0
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        parts += [
            f'<g transform="translate({place * wide} {top})">{panel.body}</g>'
            for place, panel in enumerate(row)
        ]
        top += max(panel.height for panel in row)
    width = wide * columns
    names, height = _legend(legend, width, top)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}"><style>{_STYLE}{style()}{CHART_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="var(--card)"/>{"".join(parts)}{names}</svg>\n'
    )


def frame(title: str, x: Scale, y: Scale, x_label: str = "", y_label: str = "") -> str:
    """The title, both axes' grid lines, their numbers and their names."""
    parts = [heading(title), columns_of(x, y)]
    ticks = y.ticks()
    for value in ticks:
        parts.append(_rule(x.start, y(value), x.end, y(value)))
        parts.append(label(x.start - 6, y(value) + 4, _numeral(value, ticks), "end"))
    if x_label:
        parts.append(label((x.start + x.end) / 2, y.start + 32, x_label, "middle"))
    if y_label:
        middle = (y.start + y.end) / 2
        parts.append(
            f'<text transform="translate(11 {middle:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
    return "".join(parts)


def columns_of(x: Scale, y: Scale) -> str:
    """The grid lines of the horizontal axis, and its numbers."""
    ticks = x.ticks()
    return "".join(
        _rule(x(value), y.start, x(value), y.end)
        + label(x(value), y.start + 16, _numeral(value, ticks), "middle")
        for value in ticks
    )


def heading(title: str) -> str:
    """The title of a panel."""
    return f'<text class="title" x="6" y="15">{escape(title)}</text>'


def label(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    """A text, by its base line."""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def pixels(text: str) -> float:
    """About how wide a text in small print is."""
    return _CHARACTER * len(text)


def dot(x: float, y: float, look: Look, tip: str = "", kind: str = "", size: float = 4) -> str:
    """An agent's marker around a point."""
    told = f' data-tip="{escape(tip)}"' if tip else ""
    return f'<path class="dot c{look.place} {kind}"{told} d="{_marker(x, y, look.marker, size)}"/>'


def bar(x0: float, x1: float, y: float, look: Look, tip: str = "") -> str:
    """A horizontal interval."""
    return (
        f'<rect class="bar c{look.place}" data-tip="{escape(tip)}" x="{x0:.1f}" y="{y - 5:.1f}"'
        f' width="{max(x1 - x0, 0):.1f}" height="10"/>'
    )


def whisker(x0: float, y0: float, x1: float, y1: float, look: Look) -> str:
    """The thin line of an interval."""
    return (
        f'<line class="thin c{look.place}" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}"'
        f' y2="{y1:.1f}"/>'
    )


def line(points: Sequence[tuple[float, float]], look: Look, tip: str = "") -> str:
    """A line through points, with the agent's dashes."""
    dashes = f' stroke-dasharray="{" ".join(f"{one:g}" for one in look.dash)}"' if look.dash else ""
    told = f' data-tip="{escape(tip)}"' if tip else ""
    return f'<path class="line c{look.place}"{told}{dashes} d="{_path(points)}"/>'


def band(
    upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], look: Look
) -> str:
    """The area between two lines."""
    return f'<path class="band c{look.place}" d="{_path([*upper, *reversed(lower)])}Z"/>'


def series(place: int, *parts: str) -> str:
    """What is drawn of the agent at a place of the legend, together, to stand out together."""
    return f'<g data-of="{place}">{"".join(parts)}</g>'


def reference(x: float, y: Scale) -> str:
    """A dashed vertical line."""
    return (
        f'<line class="reference" stroke-dasharray="4 3" x1="{x:.1f}" y1="{y.start:.1f}"'
        f' x2="{x:.1f}" y2="{y.end:.1f}"/>'
    )


def swatch(look: Look) -> str:
    """An agent's line and marker by themselves, for the legend of a page."""
    return f'<svg class="chart" viewBox="0 0 28 12" width="28" height="12">{_swatch(look)}</svg>'


def _legend(legend: Legend, width: float, top: float) -> tuple[str, int]:
    """The legend's elements below `top`, and where it ends."""
    if not legend:
        return "", math.ceil(top)
    longest = int((width - 44) / _CHARACTER)
    names = fitting([name for name, _ in legend], longest)
    legend = [(names[name], own) for name, own in legend]
    each = 44 + max(pixels(name) for name, _ in legend)
    columns = max(1, int(width // each))
    parts = [
        f'<g transform="translate({8 + place % columns * each:.0f}'
        f' {top + 8 + place // columns * 17:.0f})">{_swatch(own)}'
        f"{label(34, 10, name, kind='name')}</g>"
        for place, (name, own) in enumerate(legend)
    ]
    return "".join(parts), math.ceil(top + 16 + -(-len(legend) // columns) * 17)


def _swatch(look: Look) -> str:
    """An agent's line and marker, 28 × 12 pixels."""
    return line([(1, 6), (27, 6)], look) + dot(14, 6, look)


def _rule(x0: float, y0: float, x1: float, y1: float) -> str:
    return f'<line class="grid" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _numeral(value: float, ticks: Sequence[float]) -> str:
    """A tick's number, with the decimals that tell it from its neighbours."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value + 0.0:,.{decimals}f}" if decimals < 6 else f"{value:.0e}"


def _marker(x: float, y: float, marker: str, r: float) -> str:
    """The path of a marker with its middle at a point."""
    if marker == "o":
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0Z"
    thin = r * 0.4
    corners = {
        "s": [(-r, -r), (r, -r), (r, r), (-r, r)],
        "D": [(0, -r * 1.3), (r * 1.3, 0), (0, r * 1.3), (-r * 1.3, 0)],
        "^": [(0, -r * 1.2), (r * 1.2, r), (-r * 1.2, r)],
        "v": [(0, r * 1.2), (r * 1.2, -r), (-r * 1.2, -r)],
    }
    plus = [(-thin, -r), (thin, -r), (thin, -thin), (r, -thin), (r, thin), (thin, thin)]
    plus += [(thin, r), (-thin, r), (-thin, thin), (-r, thin), (-r, -thin), (-thin, -thin)]
    half = math.sqrt(0.5)
    corners["P"] = plus
    corners["X"] = [((a - b) * half, (a + b) * half) for a, b in plus]
    return _path([(x + a, y + b) for a, b in corners[marker]]) + "Z"
