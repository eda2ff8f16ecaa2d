"""What there is to gain from an editor's choices on long streams: `python -m
benchmarks.studies.headroom --trials 30 --out FILE.jsonl`; `--table FILE.jsonl` prints the table.

UltraEdit with several looks and rehearsal takes the same step at every site and every look. Here
these are choices, as they are for a policy: how strong at each site, how the steps of later looks
shrink or grow, and the ridge of the solve; `--rehearse-by` names what a step teaches again. Optuna
searches them by the score (H) at the end of a whole stream of FactWorld's policy people; the first
trial is UltraEdit as it is tuned. What is found is then measured on streams that the search never
saw, beside it. The headroom is the difference: what the best constant choices gain, found by a
search that no policy can afford.

Trials and checks are written to the file as they come; the same command goes on with them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, get_args

import gymnasium as gym
import optuna

import editgym  # noqa: F401 - registers the environments
from agents.editors.ultraedit import UltraEditAgent
from benchmarks.harness.machine import single_thread
from benchmarks.report.estimates import mean_interval
from benchmarks.report.tables import interval_text, number
from benchmarks.suites.editors import LATE_OUTPUTS
from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.lifelong.rehearsal import RehearsedBy
from editgym.envs.protocol import stream_env
from editgym.paths import whole_file
from editgym.weights import Entry, LowRankFactors, Shift, SiteEdit
from editgym.weights.closed_form import least_squares

Choices = Mapping[str, float]
_PASSES, _REHEARSE, _STEP = 6, 30, 1e-3  # as in the suite `lifelong`, tuned there
_SEARCHED, _CHECKED = 500, range(501, 506)  # seeds of streams
_SITES = tuple(f"layer {name.split('.')[2]}" for name in LATE_OUTPUTS)
TUNED: Choices = {**dict.fromkeys(_SITES, _STEP), "later looks": 1.0, "ridge": 1.0}
_PARTS = ("reliability", "generalization", "locality")


class Streams(NamedTuple):
    """What all trials of a search have in common.

    Attributes:
        horizon: Steps of ten edits.
        rehearse_by: Which earlier edits a step teaches again.
    """

    horizon: int = 100
    rehearse_by: RehearsedBy = "draw"


class ChoosingEditor(UltraEditAgent):
    """UltraEdit whose steps differ by site and look.

    Args:
        choices: η of every site, the factor from each look's steps to the next, and λ.
    """

    def __init__(self, choices: Choices) -> None:
        super().__init__(passes=_PASSES, step_size=_STEP)
        self._choices = choices

    def entries(self, process: LifelongProcess) -> list[Entry]:
        """One low-rank shift per site, of all looks."""
        new = process.capture.new
        for site, keys, gradients in zip(process.sites, new.keys, new.gradients, strict=True):
            self._editors[site.name].observe(keys, gradients)
        total: list[LowRankFactors] | None = None
        for look in range(_PASSES):
            seen = process.capture if total is None else process.captured_after(total)
            more = []
            for name, site, keys, gradients in zip(
                _SITES, process.sites, seen.keys, seen.gradients, strict=True
            ):
                editor = self._editors[site.name]
                step = self._choices[name] * self._choices["later looks"] ** look
                strength = editor.keys(keys).square().sum(1, keepdim=True)
                values = -step * strength * editor.gradients(gradients)
                more.append(least_squares(values, keys, self._choices["ridge"]))
            total = (
                more
                if total is None
                else [update.plus(other) for update, other in zip(total, more, strict=True)]
            )
        assert total is not None
        return [
            SiteEdit(site.name, Shift(), update)
            for site, update in zip(process.sites, total, strict=True)
        ]


def measured(choices: Choices, seed: int, streams: Streams) -> dict[str, float | None]:
    """H and its parts at the end of a policy stream."""
    with closing(
        gym.make(
            "LifelongLLMEdit-v1",
            task="knowledge/factworld",
            sites=LATE_OUTPUTS,
            rehearse=_REHEARSE,
            **streams._asdict(),
            split="policy",
        )
    ) as env:
        env.reset(seed=seed)
        journal = ChoosingEditor(choices).edit(env)
        metrics = stream_env(env).evaluate(journal, thorough=False).metrics
    return {"score": metrics["harmonic_mean"], **{name: metrics[name] for name in _PARTS}}


def search(out: Path, trials: int, streams: Streams) -> None:
    """Go on with the search, then measure the best trial and the tuned one on the other streams."""
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=8)
    )
    rows = _rows(out)
    known = [row for row in rows if row.items() >= streams._asdict().items()]
    done = [row for row in known if row["stream"] == _SEARCHED]
    study.enqueue_trial(dict(TUNED))
    for place in range(trials):
        trial = study.ask()
        choices = _asked(trial)
        if place < len(done):
            if done[place]["choices"] != choices:
                raise ValueError(
                    f"--out: trial {place} of {out} is not the one of this version: give another"
                    " file"
                )
            row = done[place]
        else:
            row = _measure(out, rows, choices, _SEARCHED, streams)
        study.tell(trial, row["score"])
    best: Choices = study.best_params
    for seed in _CHECKED:
        for one in (TUNED, best):
            if not any(row["stream"] == seed and row["choices"] == one for row in known):
                _measure(out, rows, one, seed, streams)


def table(path: Path, streams: Streams | None = None) -> Iterator[str]:
    """The tuned choices and the best that were found, on the streams that the search never saw, as
    Markdown.
    """
    common = (Streams() if streams is None else streams)._asdict().items()
    rows = [row for row in _rows(path) if row.items() >= common]
    searched = [row for row in rows if row["stream"] == _SEARCHED]
    if not searched:
        raise ValueError(f"--table: {path} holds no trial on such streams")
    best = max(searched, key=lambda row: row["score"])["choices"]
    shown = ("score", *_PARTS)
    yield "| choices | " + " | ".join((*TUNED, "n", "H", *_PARTS, "Δ H")) + " |"
    yield "| --- |" + " --: |" * (len(TUNED) + len(shown) + 2)
    by_stream = {
        name: {
            row["stream"]: row
            for row in rows
            if row["stream"] != _SEARCHED and row["choices"] == choices
        }
        for name, choices in (("tuned", dict(TUNED)), (f"best of {len(searched)}", best))
    }
    base = by_stream["tuned"]
    for name, found in by_stream.items():
        if not found:
            continue
        both = [found[seed]["score"] - base[seed]["score"] for seed in found if seed in base]
        change = "" if found is base else interval_text(mean_interval(both))
        cells = (
            *(number(choice) for choice in next(iter(found.values()))["choices"].values()),
            str(len(found)),
            *(interval_text(mean_interval([row[key] for row in found.values()])) for key in shown),
            change,
        )
        yield f"| {name} | " + " | ".join(cells) + " |"


def _asked(trial: optuna.Trial) -> dict[str, float]:
    """A trial's choices."""
    return {
        **{name: trial.suggest_float(name, _STEP / 5, _STEP * 5, log=True) for name in _SITES},
        "later looks": trial.suggest_float("later looks", 0.5, 1.5, log=True),
        "ridge": trial.suggest_float("ridge", 0.1, 10.0, log=True),
    }


def _measure(
    out: Path, rows: list[dict[str, Any]], choices: Choices, seed: int, streams: Streams
) -> dict[str, Any]:
    """A new row, written behind the others."""
    row = {
        "stream": seed,
        **streams._asdict(),
        "choices": dict(choices),
        **measured(choices, seed, streams),
    }
    rows.append(row)
    with whole_file(out) as partial:
        partial.write_text("".join(json.dumps(one) + "\n" for one in rows))
    print(json.dumps(row), flush=True)
    return row


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that a crash cut off is left out."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.headroom",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=30, help="of the search (default 30)")
    parser.add_argument("--horizon", type=int, default=100, help="steps of ten edits (default 100)")
    parser.add_argument(
        "--rehearse-by",
        choices=get_args(RehearsedBy),
        default="draw",
        help="which earlier edits a step teaches again (default %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where rows are written")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of these rows")
    options = parser.parse_args(arguments)
    if (options.out is None) == (options.table is None):
        parser.error("give --out to search, or --table to print what was found")
    streams = Streams(options.horizon, options.rehearse_by)
    if options.table is not None:
        print("\n".join(table(options.table, streams)))
        return 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with single_thread():
        search(options.out, options.trials, streams)
    return 0


if __name__ == "__main__":
    sys.exit(main())
