"""What was given up for what, over the trials of `agents.tune`: `python -m
benchmarks.studies.tradeoff docs/results/smollm2/tuning --out FILE.png`.

Draws every whole trial of the studies in DIR/NAME/trials.csv by locality and reliability at the end
of its validation streams, the larger the better it generalises; a line joins those of an agent that
no other trial of its betters in both, and a ring marks the one with the best score.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from agents.tune.settings_file import TABLE
from benchmarks.report.looks import look
from editgym.paths import whole_file

_LEAST, _MOST = 12.0, 220.0  # areas of a dot, points²


@dataclass(frozen=True)
class Trial:
    """One whole trial.

    Attributes:
        locality, reliability, generalization: At the end of its streams.
        score: What it was judged by.
    """

    locality: float
    reliability: float
    generalization: float
    score: float


def studies(folder: Path) -> dict[str, list[Trial]]:
    """The whole trials of every study in a folder, by the study's name.

    Raises:
        ValueError: There is no study with a whole trial of a stream.
    """
    found: dict[str, list[Trial]] = {}
    for file in sorted(folder.glob(f"*/{TABLE}")):
        with file.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        trials = [_trial(row) for row in rows if row["state"] == "complete" and row.get("locality")]
        if trials:
            found[file.parent.name] = trials
    if not found:
        raise ValueError(f"{folder}: no study of streams there (NAME/{TABLE} with whole trials)")
    return found


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other one betters in both locality and reliability, by locality."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda one: (-one.locality, -one.reliability)):
        if not best or trial.reliability > best[-1].reliability:
            best.append(trial)
    return best[::-1]


def draw(found: Mapping[str, Sequence[Trial]]) -> Figure:
    """The picture."""
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, trials) in enumerate(found.items()):
        own = look(place)
        edge = frontier(trials)
        axes.plot([t.locality for t in edge], [t.reliability for t in edge], color=own.color, lw=1)
        axes.scatter(
            [t.locality for t in trials],
            [t.reliability for t in trials],
            s=[_LEAST + (_MOST - _LEAST) * t.generalization for t in trials],
            color=own.color,
            marker=own.marker,
            alpha=0.7,
            label=name,
        )
        top = max(trials, key=lambda one: one.score)
        axes.scatter(
            [top.locality], [top.reliability], s=300, facecolors="none", edgecolors=own.color
        )
    axes.set_xlabel("locality")
    axes.set_ylabel("reliability")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    legend = axes.legend(fontsize="small", title="area: generalization")
    for text in legend.get_texts():
        text.set_parse_math(False)  # "$" is a letter of a name
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([60])  # type: ignore[attr-defined]
    return figure


def _trial(row: Mapping[str, str]) -> Trial:
    names = ("locality", "reliability", "generalization", "score")
    return Trial(*(float(row[name] or 0.0) for name in names))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.tradeoff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args(arguments)
    try:
        figure = draw(studies(options.folder))
        with whole_file(options.out) as partial:
            figure.savefig(partial, format="png", dpi=120)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
