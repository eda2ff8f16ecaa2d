"""What a study leaves for its reader: the best settings, a table of the trials, and a picture."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from agents.tune.settings_file import FILE, TABLE, TunedSettings
from agents.tune.space import Parameter, Range, Space
from agents.tune.study import best_trial
from agents.tune.validation import Subject, Validation
from editgym.paths import whole_file
from editgym.version import __version__

PICTURE = "trials.png"
_COLUMNS = 3  # panels side by side
_REDRAWN = 20.0  # seconds between two drawings, while trials go on
_LOOKS = (
    ("complete", "tab:blue", "o"),
    ("pruned", "tab:gray", "x"),
    ("failed", "tab:red", "v"),
)


class Report:
    """The files of a study in its folder.

    Args:
        folder: Where they are written, each completely or not at all.
        subject: Who is tuned, and where.
        validation: How trials are scored.
        space: What is searched.
        task: Name of the task.
    """

    def __init__(
        self, folder: Path, subject: Subject, validation: Validation, space: Space, task: str
    ) -> None:
        self._folder, self._subject, self._validation = folder, subject, validation
        self._space, self._task, self._drawn = space, task, time.monotonic()

    def update(self, trials: Sequence[FrozenTrial], whole: bool = False) -> TunedSettings | None:
        """Write what the trials so far have found.

        Args:
            trials: All that are over.
            whole: Whether the picture is to be of these: drawing takes longer than many a trial,
                so else it is done now and then.

        Returns:
            The settings of the best trial; None where no trial was scored, and no file of it then.
        """
        write_table(self._folder, trials, self._space)
        if trials and (whole or time.monotonic() - self._drawn > _REDRAWN):
            draw(self._folder, trials, self._space)
            self._drawn = time.monotonic()
        best = best_trial(list(trials))
        if best is None:
            return None
        found = TunedSettings(
            agent=self._subject.agent,
            env_id=self._subject.env_id,
            task=self._task,
            model=self._validation.model,
            settings={**self._subject.settings, **best.user_attrs["settings"]},
            env_kwargs=best.user_attrs["env_kwargs"],
            study={
                "score": best.value,
                "metrics": best.user_attrs["metrics"],
                "trial": best.number,
                "trials": len(trials),
                "env_kwargs": dict(self._subject.env_kwargs),
                "editgym": __version__,
            },
        )
        found.write(self._folder / FILE)
        return found


def write_table(folder: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    """Write a line for each trial: its score and what it is made of, then its values."""
    metrics = list(dict.fromkeys(n for t in trials for n in t.user_attrs.get("metrics", {})))
    names = [one.name for one in space.parameters]
    with (
        whole_file(folder / TABLE) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["trial", "state", "steps", "score", *metrics, *names, "seconds", "error"])
        for trial in trials:
            known, values = trial.user_attrs, trial.user_attrs["values"]
            rows.writerow(
                [
                    trial.number,
                    _state(trial),
                    len(trial.intermediate_values),
                    trial.value,
                    *(known.get("metrics", {}).get(name) for name in metrics),
                    *(values[name] for name in names),
                    f"{known['seconds']:.1f}",
                    known["error"],
                ]
            )


def draw(folder: Path, trials: Sequence[FrozenTrial], space: Space) -> None:
    """Draw the scores by number of the trial, and by the value of each parameter."""
    panels = len(space.parameters) + 1
    rows = math.ceil(panels / _COLUMNS)
    figure = Figure(figsize=(4 * min(panels, _COLUMNS), 3 * rows))
    # By hand: a layout that looks for room takes longer than many a trial.
    figure.subplots_adjust(0.06, 0.24 / rows, 0.98, 1 - 0.06 / rows, wspace=0.28, hspace=0.5)
    axes = figure.subplots(rows, min(panels, _COLUMNS), squeeze=False).flatten()
    _draw_history(axes[0], trials)
    for panel, parameter in zip(axes[1:], space.parameters, strict=False):
        _draw_parameter(panel, trials, parameter)
    for panel in axes[panels:]:
        panel.set_axis_off()
    with whole_file(folder / PICTURE) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _draw_history(axes: Axes, trials: Sequence[FrozenTrial]) -> None:
    so_far: list[tuple[int, float]] = []
    for trial in trials:
        if _state(trial) == "complete" and trial.value is not None:
            so_far.append((trial.number, max(trial.value, so_far[-1][1] if so_far else 0.0)))
    if so_far:
        axes.step(*zip(*so_far, strict=True), where="post", color="tab:orange", label="best so far")
    _scatter(axes, trials, [trial.number for trial in trials])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.legend(loc="lower right", fontsize="small")


def _draw_parameter(axes: Axes, trials: Sequence[FrozenTrial], parameter: Parameter) -> None:
    shown = [t for t in trials if t.user_attrs["values"][parameter.name] is not None]
    values = [trial.user_attrs["values"][parameter.name] for trial in shown]
    if isinstance(parameter.domain, Range):
        if parameter.domain.log:
            axes.set_xscale("log")
    else:
        values = [parameter.domain.index(value) for value in values]
        names = [str(value).replace("+", "\n") for value in parameter.domain]
        axes.set_xticks(range(len(names)), names, fontsize="x-small", parse_math=False)
        axes.set_xlim(-0.5, len(names) - 0.5)
    _scatter(axes, shown, values)
    axes.set_xlabel(parameter.name, parse_math=False)


def _scatter(axes: Axes, trials: Sequence[FrozenTrial], places: Sequence[Any]) -> None:
    for state, color, marker in _LOOKS:
        own = [(x, t.value) for x, t in zip(places, trials, strict=True) if _state(t) == state]
        if own:
            x, y = zip(*own, strict=True)
            axes.scatter(x, y, s=18, color=color, marker=marker, label=state)
    axes.set_ylabel("score")
    axes.set_ylim(0, 1.05 * max([0.02, *(trial.value or 0.0 for trial in trials)]))


def _state(trial: FrozenTrial) -> str:
    """How a trial ended: `complete`, `pruned`, or `failed`."""
    if trial.user_attrs["error"] is not None:
        return "failed"
    return "pruned" if trial.state is TrialState.PRUNED else "complete"
