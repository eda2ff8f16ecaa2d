"""Do agents learn as their library has them? `python -m benchmarks.studies.off_the_shelf`.

Trains algorithms of Stable-Baselines3 with its defaults on MaskWorld and ShiftWorld and prints a
Markdown table: accuracies on test data in percent, before → after the deterministic policy's edit,
of every run. Nothing is chosen but the environment, how many of them, and PPO's rollout of 64 × 32
steps; with `--networks`, also the network, whose model seed is then the run's seed.

With `--rows FILES` nothing is trained: the table is that of rows which this command or the scripts
in `examples/` wrote with their `--out`, one client library beside the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

import editgym  # noqa: F401 - registers the environments
from benchmarks.results import append_row
from editgym.envs.protocol import edit_env
from editgym.envs.sb3 import monitored

WORLDS = ("MaskWorld-v1", "ShiftWorld-v1")
# Environments side by side, and what a class is given beside its defaults.
ALGORITHMS: dict[str, tuple[int, dict[str, Any]]] = {"PPO": (64, {"n_steps": 32}), "SAC": (1, {})}
_JUDGED = ("forget_accuracy", "retain_accuracy")
METRICS = (*_JUDGED, *(f"{name}_before" for name in _JUDGED))
_COLUMNS = ("world", "agent", "reward_calls", "seed", "seconds", *METRICS)
# An edit holds that leaves at most so much of the forgotten class, and takes no more of the others.
_FORGOTTEN, _LOST = 0.05, 0.03


def run(
    world: str, algorithm: str, calls: int, seed: int, arguments: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Train on a world and judge the deterministic action on test data.

    Args:
        world: The environment's id.
        algorithm: A key of `ALGORITHMS`.
        calls: Reward calls.
        seed: The seed of environment and algorithm.
        arguments: The environment's, where not all are its defaults.

    Returns:
        One row: what was run, `METRICS`, and seconds of the processor.
    """
    count, settings = ALGORITHMS[algorithm]
    chosen = dict(arguments or {})
    started = time.process_time()
    with closing(monitored(gym.make_vec(world, num_envs=count, **chosen))) as envs:
        kind: type[BaseAlgorithm] = getattr(stable_baselines3, algorithm)
        model = kind("MlpPolicy", envs, seed=seed, device="cpu", **settings)
        model.learn(calls)
    seconds = time.process_time() - started
    with closing(gym.make(world, **chosen)) as env:
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        metrics = edit_env(env).evaluate(edit_env(env).journal).metrics
    return {
        "world": world,
        "agent": f"SB3 {algorithm}",
        "num_envs": count,
        "settings": settings,
        "reward_calls": calls,
        "env_kwargs": chosen,
        "seed": seed,
        **{name: metrics[name] for name in METRICS},
        "seconds": round(seconds, 1),
    }


def held(row: Mapping[str, Any]) -> bool:
    """Whether a run's edit leaves at most 5% accuracy on what is to be forgotten, and retain
    accuracy within three points of the unedited network's.
    """
    lost = row["retain_accuracy_before"] - row["retain_accuracy"]
    return bool(row["forget_accuracy"] <= _FORGOTTEN and lost <= _LOST)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracies in percent, before → after, of every seed in order, as Markdown; in how many of
    the n runs the edit `held`; and the mean seconds of one run. Runs that edit another network each
    have a line of their own.
    """
    lines = [
        "| world | agent | reward calls | n | forget | retain | held | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["world"], row["seed"])):
        agent = row["agent"] + ", other networks" * ("model_seed" in row.get("env_kwargs", {}))
        groups.setdefault((row["world"], agent, row["reward_calls"]), []).append(row)
    for (world, agent, calls), own in groups.items():
        cells = " | ".join(_change(own, name) for name in _JUDGED)
        kept, seconds = sum(map(held, own)), np.mean([row["seconds"] for row in own])
        lines.append(
            f"| {world} | {agent} | {calls:,} | {len(own)} | {cells} | {kept}/{len(own)}"
            f" | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _change(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    before = np.mean([row[f"{name}_before"] for row in rows])
    each = ", ".join(f"{100 * row[name]:.1f}" for row in rows)
    return f"{100 * before:.1f} → {each}"


def read(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of JSON Lines files.

    Raises:
        ValueError: A line is no row of a run; the message names file, line and what it lacks.
    """
    rows = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                lacks = [name for name in _COLUMNS if name not in row]
            except (json.JSONDecodeError, TypeError):
                lacks = ["JSON"]
            if lacks:
                raise ValueError(f"{file}:{number} is no row of a run: it lacks {', '.join(lacks)}")
            rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, and with `--json` write the rows. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.off_the_shelf",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--algorithm", choices=list(ALGORITHMS), default="PPO")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), help="ids of environments")
    parser.add_argument("--reward-calls", type=int, default=20_480, help="of every run")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--networks", action="store_true", help="each seed edits another network")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--out", type=Path, help="also append each row here, as a line of JSON")
    parser.add_argument("--rows", type=Path, nargs="+", metavar="FILE", help="only print these")
    options = parser.parse_args(arguments)
    if options.rows:
        try:
            print(table(read(options.rows)))
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return 0
    rows = []
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    for world in options.worlds:
        for seed in range(options.seeds):
            chosen = {"model_seed": seed} if options.networks else {}
            rows.append(run(world, options.algorithm, options.reward_calls, seed, chosen))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if options.out:
                append_row(options.out, rows[-1])
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
