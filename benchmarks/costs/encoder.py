"""What a reward call costs on a real encoder: `python -m benchmarks.costs.encoder --json FILE`.

The task is `debiasing/transformer` on `minilm-l6`, which must have been fetched
(`python -m editgym.models.fetch minilm-l6`), with its last layer open. In one run, on one thread:

(a) one reward by the whole network, 2 × 256 texts of the policy split, as without reuse;
(b) the features of the policy split, computed once, and read from disk after that;
(c) one reward call of MaskWorld after that;
(d) PPO for some of its 20,480 reward calls, from which the time of all of them is scaled.

Seconds are by the clock and of the processor: on a shared machine the latter count.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import torch
from stable_baselines3.common.vec_env import VecEnv

import editgym  # noqa: F401 - registers the environments
from benchmarks.costs.files import add_files, show, write
from benchmarks.costs.hardware import hardware
from benchmarks.costs.worlds import ppo_run
from editgym.envs.sb3 import monitored
from editgym.models.sequence_classifiers import TokenEncoder
from editgym.tasks import make_task
from editgym.tasks.debiasing.task import DebiasingTask
from editgym.weights import ActionLayout, EditableNetwork, Keep

TASK: dict[str, Any] = {
    "task": "debiasing/transformer",
    "model": "minilm-l6",
    "sites": ["classifier"],
    "device": "cpu",
}
CALLS = 20_480  # what PPO gets in suites
BATCH = 256  # texts of each reward set


class Seconds(NamedTuple):
    """What something took: by the clock, and of the processor, which others on the machine do not
    lengthen.
    """

    wall_s: float
    cpu_s: float

    def scaled(self, factor: float) -> Seconds:
        """The same, so many times as long."""
        return Seconds(self.wall_s * factor, self.cpu_s * factor)


def timed(function: Callable[[], object]) -> Seconds:
    """What a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def measure(texts: int, rewards: int, calls: int) -> dict[str, Any]:
    """The timings, in seconds.

    Args:
        texts: How many texts of the policy split features are computed of.
        rewards: How many reward calls the single environment makes.
        calls: How many reward calls PPO makes.
    """
    task = make_task(TASK["task"], **{key: TASK[key] for key in TASK if key != "task"})
    assert isinstance(task, DebiasingTask)
    assert isinstance(task.encode, TokenEncoder)
    network, inputs = task.networks[0], task.pool.inputs
    batch = inputs[torch.randint(len(inputs), (2 * BATCH,))]
    with torch.no_grad():
        whole = timed(lambda: network.base(batch))
    few = inputs[torch.randperm(len(inputs))[:texts]]
    with tempfile.TemporaryDirectory() as folder:
        keep = Keep(Path(folder), task.encode.lengths)
        first, second = (
            EditableNetwork(network.base, network.sites, few[:8], keep) for _ in range(2)
        )
        computed = timed(lambda: first.activations(few))
        read = timed(lambda: second.activations(few))
    spec = copy.deepcopy(gym.spec("MaskWorld-v0"))
    spec.kwargs.update(TASK)
    with closing(gym.make(spec)) as env:
        env.reset(seed=0)
        action = env.action_space.sample()
        env.step(action)

        def steps() -> None:
            for _ in range(rewards):
                env.reset()
                env.step(action)

        reward = timed(steps)
    layout = ActionLayout(tuple(site.shape for site in network.sites), task.rewards.rank)

    def vector(slots: int) -> VecEnv:
        return monitored(gym.make_vec(spec, num_envs=slots, shared_batch=True))

    ppo = timed(lambda: ppo_run(vector, layout, spec, calls))
    return {
        "task": TASK,
        "pool": len(task.pool),
        "batch": [BATCH, BATCH],
        "texts": texts,
        "a_whole_network": whole._asdict(),
        "b_features": computed._asdict(),
        "b_features_read": read._asdict(),
        "c_reward": reward.scaled(1 / rewards)._asdict(),
        "ppo_calls": CALLS,
        "ppo_measured_calls": calls,
        "d_ppo_measured": ppo._asdict(),
        "d_ppo": ppo.scaled(CALLS / calls)._asdict(),
    }


def table(result: dict[str, Any]) -> str:
    """The timings as text."""

    def line(label: str, key: str, more: str = "") -> str:
        found = result[key]
        return f"{label:44} {found['wall_s']:10.4f} s, processor {found['cpu_s']:10.4f} s{more}"

    ratio = result["a_whole_network"]["cpu_s"] / result["c_reward"]["cpu_s"]
    texts, calls, measured = (result[key] for key in ("texts", "ppo_calls", "ppo_measured_calls"))
    return "\n".join(
        (
            line("(a) a reward by the whole network", "a_whole_network"),
            line(f"(b) features of {texts:,} texts", "b_features"),
            line("    read again from disk", "b_features_read"),
            line("(c) a reward call", "c_reward", f"   (a)/(c) = {ratio:.0f}"),
            line(f"(d) PPO, {calls:,} reward calls", "d_ppo", f"   (from {measured:,} of them)"),
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.encoder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser)
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
        "--rewards",
        type=int,
        default=200,
        help="reward calls of the single environment (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, table)
    try:
        result = measure(options.texts, options.rewards, options.ppo_calls)
        write(options.json, {"hardware": hardware("cpu"), **result})
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
