"""How fast the worlds are: `python -m benchmarks.costs.throughput --json FILE`.

In one run, on one task, per candidate step (one edit applied and scored on 1,024 + 1,024 samples):

(a) the environment that one would write by hand — set the weight on a copy of the network, run the
whole forward
    pass — one per slot of SB3's `DummyVecEnv`;
(b) our single environment;
(c) our vector environment, K candidates at once;
(d) the bare products behind (c): weight, bias, ReLU, output layer and scoring, on activations that
lie ready; (e) the tensor API, whose actions, rewards and observations never leave the device.

Then a picture of an episode, and a PPO run, with (a) and with (c). Timings on a shared machine are
noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import editgym  # noqa: F401 - registers the environments
from benchmarks.costs.by_hand import BATCH
from benchmarks.costs.files import add_files, show, write
from benchmarks.costs.hardware import hardware
from benchmarks.costs.worlds import (
    bare_suffix,
    by_hand,
    frame,
    ppo_times,
    single,
    tensor_api,
    vector,
)
from editgym.tasks import make_task
from editgym.tasks.catalogue import checked_device
from editgym.tasks.unlearning.task import UnlearningTask


def measure(task_name: str, device: str, sizes: Sequence[int], least: float) -> dict[str, Any]:
    """The timings of single steps on one task, in microseconds per candidate step."""
    kwargs: dict[str, Any] = {"task": task_name, "device": device}
    task = make_task(task_name, device=device)
    assert isinstance(task, UnlearningTask)
    micro = 1e6
    return {
        "task": task_name,
        "pool": len(task.pool),
        "batch": [BATCH, BATCH],
        "a_by_hand_us": by_hand(task, 4, least) * micro,
        "b_single_us": single(kwargs, least, task.device) * micro,
        "c_vector_us": {str(k): vector(kwargs, k, least, task.device) * micro for k in sizes},
        "c_vector_shared_batch_us": {
            str(k): vector(kwargs, k, least, task.device, shared_batch=True) * micro for k in sizes
        },
        "e_tensor_api_us": {
            str(k): tensor_api(kwargs, k, least, task.device) * micro for k in sizes
        },
        "d_bare_suffix_us": {str(k): bare_suffix(task, k, least) * micro for k in sizes},
        "frame_us": frame(kwargs, least, task.device) * micro,
    }


def table(result: dict[str, Any]) -> str:
    """The timings as text: ratios first, because seconds depend on the machine and the moment."""
    slow, lines = result["a_by_hand_us"], [f"{result['task']}: {result['pool']} reward samples"]
    lines.append(f"(a) by hand, per slot of DummyVecEnv {slow:12.1f} us")
    lines.append(
        f"(b) single environment              {result['b_single_us']:12.1f} us   "
        f"(a)/(b) = {slow / result['b_single_us']:.0f}"
    )
    for k, own in result["c_vector_us"].items():
        bare, shared = result["d_bare_suffix_us"][k], result["c_vector_shared_batch_us"][k]
        device_only = result["e_tensor_api_us"][k]
        lines.append(
            f"(c) vector, K = {k:>4}                  {own:12.1f} us   (a)/(c) = {slow / own:.0f}  "
            f" (d)/(c) = {bare / own:.2f}   {1e6 / own:,.0f} candidate steps/s"
        )
        lines.append(
            f"    shared batch {shared:.1f} us, (d) bare {bare:.1f} us, (e) tensor API"
            f" {device_only:.1f} us"
        )
    lines.append(f"a picture of an episode              {result['frame_us']:12.1f} us")
    ratio = result["ppo_by_hand_s"] / result["ppo_vector_s"]
    measured = result["ppo_by_hand_measured_calls"]
    scaled = "" if measured == result["ppo_calls"] else f" (from {measured:,} of them)"
    lines.append(
        f"PPO, {result['ppo_calls']:,} reward calls: by hand {result['ppo_by_hand_s']:.1f}"
        f" s{scaled}, vector {result['ppo_vector_s']:.1f} s, ratio {ratio:.1f}"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser)
    parser.add_argument(
        "--tasks",
        default="unlearning/digits,unlearning/mnist",
        help="names, or benchmarks.costs.vit:head, the last layer of a transformer of images"
        " (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--sizes", default=None, help="values of K (default: 1,8,64,256; on cuda also 1024,4096)"
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="least time per timing (default: %(default)s)"
    )
    parser.add_argument(
        "--ppo-calls",
        type=int,
        default=20_480,
        help="length of the PPO runs (default: %(default)s)",
    )
    parser.add_argument(
        "--ppo-calls-by-hand",
        type=int,
        default=256,
        metavar="N",
        help="run PPO on (a) for N calls only and scale its time (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, lambda costs: "\n".join(map(table, costs["tasks"])))
    try:
        results: dict[str, Any] = {
            "hardware": hardware(checked_device(options.device)),
            "tasks": [],
        }
        default = "1,8,64,256" + (",1024,4096" if options.device.startswith("cuda") else "")
        sizes = [int(size) for size in (options.sizes or default).split(",")]
        for name in options.tasks.split(","):
            result = measure(name, options.device, sizes, options.seconds)
            task = make_task(name, device=options.device)
            result |= ppo_times(
                task,
                {"task": name, "device": options.device},
                options.ppo_calls,
                options.ppo_calls_by_hand,
            )
            results["tasks"].append(result)
            write(options.json, results)
            print(table(result), flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
