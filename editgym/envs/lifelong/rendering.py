"""Draw a stream of edits: what each batch came to, and the reward, over the edits made so far."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from editgym.envs.lifelong.episode import StreamEpisode

RENDER_MODES = ("rgb_array", "ansi")
_CURVES = {"reliability": "#4878a8", "generalization": "#1b7f5c", "locality": "#c4452f"}


def render(episode: StreamEpisode, mode: str) -> NDArray[np.uint8] | str:
    """The episode as `rgb_array`, (360, 900, 3) uint8, or as `ansi` text."""
    return _frame(episode) if mode == "rgb_array" else _text(episode)


def _text(episode: StreamEpisode) -> str:
    rows = [["step", "edits", "reward", *_CURVES]]
    rows += [
        [
            str(step),
            f"{info['edits_done']:.0f}",
            f"{reward:+.3f}",
            *(f"{info[name]:.3f}" for name in _CURVES),
        ]
        for step, (reward, info) in enumerate(
            zip(episode.rewards, episode.infos, strict=True), start=1
        )
    ]
    lines = ["  ".join(f"{cell:>14}" for cell in row) for row in rows]
    return "\n".join(
        [f"{episode.title} · step {len(episode.outcomes)} of {episode.horizon}", *lines, ""]
    )


def _frame(episode: StreamEpisode) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    figure.suptitle(
        f"{episode.title}  ·  step {len(episode.outcomes)} of {episode.horizon}",
        fontsize=12,
        fontweight="bold",
        parse_math=False,  # "$" is a letter of a name
    )
    infos = episode.infos
    edits = [info["edits_done"] for info in infos]
    for name, colour in _CURVES.items():
        left.plot(edits, [info[name] for info in infos], marker=".", color=colour, label=name)
    left.set(xlabel="edits made", ylabel="share of the step's requests", ylim=(-0.03, 1.03))
    if edits:
        left.legend(fontsize=9, loc="lower right")
    right.plot(edits, episode.rewards, color="#555555")
    right.set(xlabel="edits made", title="reward")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
