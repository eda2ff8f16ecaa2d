"""What a reward call costs on a real encoder: `python -m benchmarks.costs.encoder --json FILE`.

The task is `debiasing/transformer` on `minilm-l6`, which must have been fetched
(`python -m editgym.models.fetch minilm-l6`), with its last layer open. In one run, on one thread:

(a) one reward by the whole network, 2 × 256 texts of the policy split, as without reuse;
(b) the features of the policy split, computed once, and read from disk after that;
(c) one reward call of MaskWorld after that;
(d) PPO for some of its 20,480 reward calls, from which the time of all of them is scaled.

Timings on a shared machine are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import VecEnv

import editgym  # noqa: F401 - registers the environments
from benchmarks.costs.hardware import hardware
from benchmarks.costs.worlds import ppo_run, single
from editgym.envs.sb3 import monitored
from editgym.models.sequence_classifiers import TokenEncoder
from editgym.tasks import make_task
from editgym.tasks.debiasing import DebiasingTask
from editgym.weights import ActionLayout, EditableNetwork, Keep

TASK: dict[str, Any] = {
    "task": "debiasing/transformer",
    "model": "minilm-l6",
    "sites": ["classifier"],
    "device": "cpu",
}
CALLS = 20_480  # what PPO gets in suites
BATCH = 256  # texts of each reward set


def measure(texts: int, calls: int, least: float) -> dict[str, Any]:
    """The timings, in seconds.

    Args:
        texts: How many texts of the policy split features are computed of.
        calls: How many reward calls PPO makes.
        least: Least time for one timing.
    """
    task = make_task(TASK["task"], **{key: TASK[key] for key in TASK if key != "task"})
    assert isinstance(task, DebiasingTask)
    assert isinstance(task.encode, TokenEncoder)
    network, inputs, cpu = task.networks[0], task.pool.inputs, torch.device("cpu")
    batch = inputs[torch.randint(len(inputs), (2 * BATCH,))]
    with torch.no_grad():
        whole = _seconds(lambda: network.base(batch))
    few = inputs[torch.randperm(len(inputs))[:texts]]
    with tempfile.TemporaryDirectory() as folder:
        keep = Keep(Path(folder), task.encode.lengths)
        first, second = (
            EditableNetwork(network.base, network.sites, few[:8], keep) for _ in range(2)
        )
        computed = _seconds(lambda: first.activations(few))
        read = _seconds(lambda: second.activations(few))
    reward = single(TASK, least, cpu)
    spec = copy.deepcopy(gym.spec("MaskWorld-v0"))
    spec.kwargs.update(TASK)
    layout = ActionLayout(tuple(site.shape for site in network.sites), task.rewards.rank)

    def vector(slots: int) -> VecEnv:
        return monitored(gym.make_vec(spec, num_envs=slots, shared_batch=True))

    ppo = ppo_run(vector, layout, spec, calls)
    return {
        "task": TASK,
        "pool": len(task.pool),
        "batch": [BATCH, BATCH],
        "texts": texts,
        "a_whole_network_s": whole,
        "b_features_s": computed,
        "b_features_read_s": read,
        "c_reward_s": reward,
        "ppo_calls": CALLS,
        "ppo_measured_calls": calls,
        "ppo_measured_s": ppo,
        "ppo_s": ppo * CALLS / calls,
    }


def table(result: dict[str, Any]) -> str:
    """The timings as text."""
    whole, reward = result["a_whole_network_s"], result["c_reward_s"]
    texts, computed = result["texts"], result["b_features_s"]
    measured, scaled = result["ppo_measured_calls"], result["ppo_s"]
    return "\n".join(
        (
            f"(a) a reward by the whole network   {1e3 * whole:10.1f} ms",
            f"(b) features of {texts:>6,} texts       {1e3 * computed:10.1f} ms; read again in"
            f" {1e3 * result['b_features_read_s']:.1f} ms",
            f"(c) a reward call                   {1e3 * reward:10.1f} ms   (a)/(c) ="
            f" {whole / reward:.0f}",
            f"(d) PPO, {result['ppo_calls']:,} reward calls     {scaled:10.1f} s"
            f"    (from {measured:,} of them)",
        )
    )


def _seconds(function: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--texts",
        type=int,
        default=512,
        help="texts that features are computed of (default: %(default)s)",
    )
    parser.add_argument(
        "--ppo-calls",
        type=int,
        default=2_048,
        help="reward calls of the PPO run (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="least time of (c) (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        result = measure(options.texts, options.ppo_calls, options.seconds)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"hardware": hardware("cpu"), **result}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
