"""Do agents learn as their library has them? `python -m benchmarks.studies.off_the_shelf`.

Trains algorithms of Stable-Baselines3 with its defaults on MaskWorld and ShiftWorld and prints a
Markdown table: accuracies on test data in percent, before → after the deterministic policy's edit,
of every run. Nothing is chosen but the environment, how many of them, and PPO's rollout of 64 × 32
steps; with `--networks`, also the network, whose model seed is then the run's seed.
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
from editgym.envs.protocol import edit_env
from editgym.envs.sb3 import monitored

WORLDS = ("MaskWorld-v1", "ShiftWorld-v1")
# Environments side by side, and what a class is given beside its defaults.
ALGORITHMS: dict[str, tuple[int, dict[str, Any]]] = {"PPO": (64, {"n_steps": 32}), "SAC": (1, {})}
_JUDGED = ("forget_accuracy", "retain_accuracy")
METRICS = (*_JUDGED, *(f"{name}_before" for name in _JUDGED))


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
        "algorithm": algorithm,
        "num_envs": count,
        "settings": settings,
        "reward_calls": calls,
        "env_kwargs": chosen,
        "seed": seed,
        **{name: metrics[name] for name in METRICS},
        "seconds": round(seconds, 1),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracies in percent, before → after, of every seed, as Markdown; the number of runs is in
    the column n.
    """
    lines = [
        "| world | agent | reward calls | n | forget | retain |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for key in dict.fromkeys((r["world"], r["algorithm"], r["reward_calls"]) for r in rows):
        own = [r for r in rows if (r["world"], r["algorithm"], r["reward_calls"]) == key]
        world, algorithm, calls = key
        cells = " | ".join(_change(own, name) for name in _JUDGED)
        lines.append(f"| {world} | SB3 {algorithm} | {calls:,} | {len(own)} | {cells} |")
    return "\n".join(lines)


def _change(rows: Sequence[dict[str, Any]], name: str) -> str:
    before = np.mean([row[f"{name}_before"] for row in rows])
    each = ", ".join(f"{100 * row[name]:.1f}" for row in rows)
    return f"{100 * before:.1f} → {each}"


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
    options = parser.parse_args(arguments)
    rows = []
    for world in options.worlds:
        for seed in range(options.seeds):
            chosen = {"model_seed": seed} if options.networks else {}
            rows.append(run(world, options.algorithm, options.reward_calls, seed, chosen))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
