"""Choose the editors' settings on validation streams: `python -m benchmarks.tuning.editors --out
FILE`.

Every configuration of `GRIDS` edits the same validation streams of FactWorld, whose subjects are in
no test stream. The best by the mean harmonic mean of reliability, generalization and locality is
what `benchmarks.suites.cells` uses. Finished configurations are in FILE, a JSON object per line,
and are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
from tqdm import tqdm

import editgym  # noqa: F401 - registers the environments
from agents.catalogue import make_agent
from benchmarks.harness.machine import single_thread
from benchmarks.harness.processes import in_processes
from benchmarks.results import append_row, canonical_json, finished
from benchmarks.suites.editors import LATE_OUTPUTS, LIFELONG_SITES
from benchmarks.tuning.grid import grid
from editgym.envs.protocol import edit_env

STREAM_SEEDS = (1_000, 1_001)
SCORES = ("harmonic_mean", "reliability", "generalization", "locality")


GRIDS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "ultraedit": [
        *grid(step_size=[1e-4, 2.5e-4, 5e-4, 7e-4, 1e-3, 1.4e-3, 2e-3]),
        *grid(step_size=[1e-3, 2e-3, 4e-3, 6e-3, 8e-3], sites=[LATE_OUTPUTS]),
        *grid(step_size=[2e-4, 3e-4, 4e-4, 5e-4, 7e-4, 1e-3], passes=[3, 6]),
    ],
    "alphaedit": (
        grid(threshold=[1.0, 3.0, 10.0], ridge=[100.0])
        + grid(threshold=[3.0], ridge=[300.0, 1000.0, 3000.0, 10_000.0])
    ),
    "memit_seq": grid(covariance_weight=[30.0, 100.0, 300.0, 1000.0, 3000.0]),
    "memit": grid(covariance_weight=[3.0, 10.0, 30.0, 100.0, 300.0]),
    "rome": grid(max_norm=[0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0]),
    "ft_m": grid(learning_rate=[1e-3, 2e-3, 4e-3, 6e-3], site=["model.layers.4.mlp.down_proj"]),
    "grace": grid(radius=[0.5, 0.65, 0.8, 0.9, 1.0]),
    "ft_l": (
        grid(
            learning_rate=[5e-3],
            epsilon=[0.3, 0.5, 0.8, 1.2],
            site=["model.layers.4.mlp.down_proj"],
        )
        + grid(learning_rate=[2e-3], epsilon=[0.3, 0.8], site=["model.layers.4.mlp.down_proj"])
    ),
    "loc_ft_bf": grid(learning_rate=[1.5e-3, 3e-3, 6e-3, 1e-2, 1.5e-2]),
    "lora_merge": grid(learning_rate=[5e-4, 1e-3, 1.5e-3, 2e-3, 3e-3]),
}


def score(
    agent: str, config: Mapping[str, Any], horizon: int, seed: int, device: str = "cpu"
) -> dict[str, Any]:
    """Metrics of one configuration on one validation stream; None where it ended in numbers that
    are not finite.
    """
    with single_thread():
        env = gym.make(
            "LifelongLLMEdit-v0",
            split="validation",
            horizon=horizon,
            sites=LIFELONG_SITES,
            device=device,
        )
        env.reset(seed=seed)
        try:
            journal = make_agent(agent, **config).edit(env)
            metrics = edit_env(env).evaluate(journal).metrics
        except (ValueError, FloatingPointError):
            metrics = dict.fromkeys(SCORES)
    return {
        "agent": agent,
        "config": dict(config),
        "horizon": horizon,
        "seed": seed,
        **{name: metrics[name] for name in SCORES},
    }


def best(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], tuple[float, dict[str, Any]]]:
    """By agent and horizon: the highest mean harmonic mean, and its configuration; none that ever
    failed.
    """
    scores: dict[tuple[str, int, str], list[float | None]] = {}
    for row in rows:
        key = row["agent"], row["horizon"], canonical_json(row["config"])
        scores.setdefault(key, []).append(row["harmonic_mean"])
    chosen: dict[tuple[str, int], tuple[float, dict[str, Any]]] = {}
    for (agent, horizon, config), values in scores.items():
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            continue
        mean = statistics.fmean(known)
        if (agent, horizon) not in chosen or mean > chosen[agent, horizon][0]:
            chosen[agent, horizon] = mean, json.loads(config)
    return chosen


def _score_all(run: tuple[str, Mapping[str, Any], int, int, str]) -> dict[str, Any]:
    return score(*run)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning.editors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--agents", help=f"comma-separated, of {', '.join(GRIDS)} (default: all)")
    parser.add_argument(
        "--horizons", default="20,50", help="steps of ten edits (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    agents = options.agents.split(",") if options.agents else list(GRIDS)
    if unknown := sorted(set(agents) - set(GRIDS)):
        print(
            f"error: --agents: no grid for {', '.join(unknown)}; there are {', '.join(GRIDS)}",
            file=sys.stderr,
        )
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = {
        canonical_json([row["agent"], row["config"], row["horizon"], row["seed"]])
        for row in finished(options.out)
    }
    wanted = [
        (agent, config, int(horizon), seed)
        for horizon in options.horizons.split(",")
        for agent in agents
        for config in GRIDS[agent]
        for seed in STREAM_SEEDS
    ]
    missing = [run for run in wanted if canonical_json(list(run)) not in known]
    runs = [(*run, options.device) for run in missing]
    with closing(in_processes(_score_all, runs, options.jobs)) as finished_runs:
        for _, future in tqdm(finished_runs, total=len(runs), unit="stream"):
            append_row(options.out, future.result())
    for (agent, horizon), (value, config) in best(finished(options.out)).items():
        print(f"{agent:12} {horizon:4} steps  {value:.3f}  {json.dumps(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
