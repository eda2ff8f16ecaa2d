"""Draw an episode of weight editing: one frame that a person understands, or text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from editgym.weights import EditableNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RENDER_MODES = ("rgb_array", "ansi")
# Pixels of a frame, and of the matrices in it.
_WIDTH, _HEIGHT = 1000, 560
_PANEL_WIDTH, _PANEL_HEIGHT = 296, 196
_PANELS_TOP, _PANELS_LEFT = 68, (28, 352, 676)
_COLOURS = ("#1b7f5c", "#c4452f", "#6b5b95", "#b8860b")


@dataclass
class Episode:
    """What there is to draw.

    Attributes:
        title: Task and goal.
        network: The network under edit, with its base weights and its current ones.
        set_names: The reward sets.
        rewards: One per step.
        infos: One per step.
    """

    title: str
    network: EditableNetwork
    set_names: Sequence[str]
    rewards: list[float] = field(default_factory=list)
    infos: list[Mapping[str, float]] = field(default_factory=list)

    def record(self, reward: float, info: Mapping[str, float]) -> None:
        """Add a step."""
        self.rewards.append(reward)
        self.infos.append(info)

    def most_changed(self) -> tuple[str, NDArray[np.float32], NDArray[np.float32]]:
        """Name, weights before and weights now, (out, in), of the site that changed most."""
        sites = self.network.sites
        pairs = [
            (before.detach().cpu(), after.detach().cpu())
            for before, after in zip(self.network.base_weights, self.network.weights, strict=True)
        ]
        best = max(range(len(sites)), key=lambda i: float((pairs[i][1] - pairs[i][0]).norm()))
        return sites[best].name, pairs[best][0].float().numpy(), pairs[best][1].float().numpy()


def render(episode: Episode, mode: str) -> NDArray[np.uint8] | str:
    """The episode as `rgb_array`, (560, 1000, 3) uint8, or as `ansi` text."""
    return _frame(episode) if mode == "rgb_array" else _text(episode)


def _text(episode: Episode) -> str:
    header = f"{episode.title} · {len(episode.network.sites)} site(s)"
    columns = ["step", "reward", *(f"{name} acc." for name in episode.set_names), "success"]
    rows = [["-", "-", *(_before(episode, name) for name in episode.set_names), "-"]]
    for i, (reward, info) in enumerate(zip(episode.rewards, episode.infos, strict=True), start=1):
        accuracies = [f"{info[f'{name}_accuracy']:.3f}" for name in episode.set_names]
        rows.append([str(i), f"{reward:+.3f}", *accuracies, "yes" if info["is_success"] else "no"])
    lines = ["  ".join(f"{cell:>14}" for cell in row) for row in [columns, *rows]]
    return "\n".join([header, *lines, ""])


def _before(episode: Episode, name: str) -> str:
    return f"{episode.infos[-1][f'{name}_accuracy_before']:.3f}" if episode.infos else "-"


def _frame(episode: Episode) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Places are fixed and there are no axes: they and a layout engine would take most of the time
    # of a frame.
    figure = Figure(figsize=(_WIDTH / 100, _HEIGHT / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(
        0.5,
        0.955,
        f"{episode.title}  ·  after {len(episode.rewards)} edit(s)",
        fontsize=12,
        fontweight="bold",
        ha="center",
        parse_math=False,  # "$" is a letter of a name
    )
    panels = _panels(episode)
    for left, (_, limit, title) in zip(_PANELS_LEFT, panels, strict=True):
        label = f"{title}  (±{limit:.2g})"
        place = (left + _PANEL_WIDTH / 2) / _WIDTH, 1 - (_PANELS_TOP - 7) / _HEIGHT
        figure.text(*place, label, fontsize=10, ha="center", parse_math=False)
    _draw_accuracies(figure, episode)
    _draw_rewards(figure, episode)
    canvas.draw()
    frame = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    for left, (matrix, limit, _) in zip(_PANELS_LEFT, panels, strict=True):
        rows = slice(_PANELS_TOP, _PANELS_TOP + _PANEL_HEIGHT)
        frame[rows, left : left + _PANEL_WIDTH] = _painted(matrix, limit)
    return frame


def _panels(episode: Episode) -> list[tuple[NDArray[np.float32], float, str]]:
    """Matrices (out, in) side by side, each with the value of the strongest colour and a title."""
    name, before, after = episode.most_changed()
    limit = float(np.quantile(np.abs(before), 0.99)) or 1.0
    change = float(np.abs(after - before).max()) or 1.0
    return [
        (before, limit, f"{name} before"),
        (after - before, change, "update"),
        (after, limit, f"{name} now"),
    ]


def _painted(matrix: NDArray[np.float32], limit: float) -> NDArray[np.uint8]:
    """A matrix from blue, −limit, over white to red, in the size of a panel; every pixel shows one
    entry.
    """
    rows = np.arange(_PANEL_HEIGHT) * matrix.shape[0] // _PANEL_HEIGHT
    columns = np.arange(_PANEL_WIDTH) * matrix.shape[1] // _PANEL_WIDTH
    shown = (matrix[np.ix_(rows, columns)] / limit).clip(-1, 1)
    return _colours()[np.round((shown + 1) * 127.5).astype(np.intp)]


@cache
def _colours() -> NDArray[np.uint8]:
    """256 colours, (256, 3)."""
    from matplotlib import colormaps

    return (colormaps["RdBu_r"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def _draw_accuracies(figure: Figure, episode: Episode) -> None:
    plot = _Plot(figure, (0.06, 0.09, 0.53, 0.36), (-0.4, len(episode.infos) + 0.4), (-0.03, 1.03))
    plot.number(_ticks(0, len(episode.infos)), "edit")
    plot.line(plot.x, (plot.y[0],) * 2, color="black", linewidth=0.8)
    plot.line((plot.x[0],) * 2, plot.y, color="black", linewidth=0.8)
    for y in (0, 0.5, 1):
        plot.text(plot.x[0], y, f"{y:g} ", ha="right", va="center")
    plot.text(plot.x[0], 1.12, "accuracy on the reward batch", fontsize=10)
    if not episode.infos:
        return
    for row, (name, colour) in enumerate(zip(episode.set_names, _COLOURS, strict=False)):
        before = episode.infos[-1][f"{name}_accuracy_before"]
        values = [before, *(info[f"{name}_accuracy"] for info in episode.infos)]
        plot.line(range(len(values)), values, marker="o", color=colour)
        plot.line(plot.x, (before, before), color=colour, linestyle=":", linewidth=1)
        label = f"{name}: {before:.3f} → {values[-1]:.3f}"
        plot.text(plot.x[1], 0.55 - 0.1 * row, label, ha="right", color=colour, weight="bold")


def _draw_rewards(figure: Figure, episode: Episode) -> None:
    low, high = min(0.0, *episode.rewards, 0.0), max(0.0, *episode.rewards, 0.0)
    room = 0.25 * (high - low) or 1.0
    plot = _Plot(
        figure,
        (0.67, 0.09, 0.31, 0.36),
        (0.2, len(episode.rewards) + 0.8),
        (low - room, high + room),
    )
    ticks = _ticks(1, len(episode.rewards))
    plot.number(ticks, "edit")
    plot.line(plot.x, (0, 0), color="black", linewidth=0.8)
    for step, reward in enumerate(episode.rewards, start=1):
        plot.bar(step, reward, color="#4878a8")
        if step in ticks:
            side = "bottom" if reward >= 0 else "top"
            plot.text(step, reward, f"{reward:+.2g}", ha="center", va=side)
    done = bool(episode.infos and episode.infos[-1]["is_success"])
    title = "reward" + (" · success" if done else "")
    plot.text(sum(plot.x) / 2, plot.y[1], title, ha="center", fontsize=10)


def _ticks(first: int, last: int) -> range:
    """At most six of the edits from `first` to `last`."""
    return range(first, last + 1, max(1, math.ceil((last - first + 1) / 6)))


class _Plot:
    """A rectangle of a figure, with coordinates of its own.

    Matplotlib's axes would take two thirds of the time of a frame.

    Args:
        figure: What is drawn in.
        place: Left, bottom, width, height, as shares of the figure.
        x: First and last value from left to right.
        y: First and last value from bottom to top.
    """

    def __init__(
        self,
        figure: Figure,
        place: tuple[float, float, float, float],
        x: tuple[float, float],
        y: tuple[float, float],
    ) -> None:
        from matplotlib.transforms import Bbox, BboxTransform

        self.figure, self.x, self.y = figure, x, y
        inside = BboxTransform(Bbox(list(zip(x, y, strict=True))), Bbox.from_bounds(*place))
        self._transform = inside + figure.transFigure

    def line(self, x: Sequence[float], y: Sequence[float], **style: Any) -> None:
        """A line through the points (x, y)."""
        from matplotlib.lines import Line2D

        self.figure.add_artist(Line2D(x, y, transform=self._transform, **style))

    def bar(self, x: float, height: float, color: str) -> None:
        """A bar from 0 to `height`, half a unit wide."""
        from matplotlib.patches import Rectangle

        self.figure.add_artist(
            Rectangle((x - 0.25, 0), 0.5, height, transform=self._transform, color=color)
        )

    def text(self, x: float, y: float, text: str, **style: Any) -> None:
        """A text at the point (x, y)."""
        style = {"fontsize": 9, "parse_math": False, **style}
        self.figure.text(x, y, text, transform=self._transform, **style)

    def number(self, ticks: Sequence[int], label: str) -> None:
        """Numbers below, and what they are of."""
        height = self.y[1] - self.y[0]
        for tick in ticks:
            self.text(tick, self.y[0] - 0.04 * height, str(tick), ha="center", va="top")
        middle = sum(self.x) / 2
        self.text(middle, self.y[0] - 0.14 * height, label, ha="center", va="top")
