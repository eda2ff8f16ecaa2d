"""What the examples share beside their libraries: the command line, and what a policy is worth.

Copy this file along with an example, or replace it by what you need of it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import editgym  # noqa: F401 - registers the environments
from benchmarks.costs.hardware import hardware
from editgym.envs.metering import count_reward_calls

# A deterministic policy: an observation (n,) in, an action (m,) out.
Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]
_PACKAGES = ("editgym", "gymnasium", "numpy", "torch")


def parser(description: str | None, num_envs: int = 64) -> argparse.ArgumentParser:
    """The command line of an example.

    Args:
        description: The example's docstring.
        num_envs: How many environments it has side by side unless told otherwise.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--env-id", default="MaskWorld-v1", help="default: %(default)s")
    add("--num-envs", type=int, default=num_envs, help="side by side; default: %(default)s")
    add("--total-calls", type=int, default=20_480, help="of the reward; default: %(default)s")
    add("--seed", type=int, default=0, help="of environments and agent; default: %(default)s")
    add("--out", type=Path, metavar="FILE", help="append the result here, as a line of JSON")
    return parser


def run(
    args: argparse.Namespace,
    learn: Callable[[argparse.Namespace], Act],
    *,
    agent: str,
    packages: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Learn, then edit once by the learned policy, print what that is worth, and keep it.

    Args:
        args: What `parser` read.
        learn: The example: it trains on `args.env_id` and returns its policy.
        agent: Library and algorithm, as tables name them.
        packages: The libraries whose versions matter.
        settings: What was chosen beside the library's defaults.
    """
    started = time.process_time()
    with count_reward_calls() as meter:
        act = learn(args)
    seconds = time.process_time() - started
    result = judged(args.env_id, act, args.seed)
    print(f"{agent} on {args.env_id}, {meter.calls:,} reward calls, seed {args.seed}")
    for name in result:
        if name == "reward" or name.endswith("accuracy"):
            print(f"{name:>16} {result[f'{name}_before']:.3f} → {result[name]:.3f}")
    row = {
        "agent": agent,
        "script": Path(sys.argv[0]).name,
        "settings": dict(settings or {}),
        "world": args.env_id,
        "num_envs": args.num_envs,
        "total_calls": args.total_calls,
        "reward_calls": meter.calls,
        "seed": args.seed,
        **result,
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in (*_PACKAGES, *packages)},
        "hardware": hardware("cpu"),
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def judged(env_id: str, act: Act, seed: int) -> dict[str, float]:
    """An episode's reward by a policy and by no edit, and the edited network on test data.

    Args:
        env_id: The environment's id.
        act: The policy.
        seed: The seed of the episode.

    Returns:
        `reward`, and every metric of `env.unwrapped.evaluate` that is known before and after the
        edit, each also as `NAME_before`.
    """
    with closing(gym.make(env_id)) as env:
        shape = env.action_space.shape
        before = _reward(env, lambda _: np.zeros(shape, np.float32), seed)
        reward = _reward(env, act, seed)
        metrics = env.unwrapped.evaluate(env.unwrapped.journal).metrics
    known = {name: float(value) for name, value in metrics.items() if value is not None}
    pairs = {"reward": reward, "reward_before": before}
    for name, value in known.items():
        if f"{name}_before" in known:
            pairs |= {name: value, f"{name}_before": known[f"{name}_before"]}
    return pairs


def _reward(env: gym.Env, act: Act, seed: int) -> float:
    """The sum of an episode's rewards."""
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total, over = total + float(reward), terminated or truncated
    return total
