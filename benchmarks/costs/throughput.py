"""How fast the worlds are: `python -m benchmarks.costs.throughput --json FILE`.

In one run, on one task, per candidate step (one edit applied and scored on 1,024 + 1,024 samples):

(a) the environment that one would write by hand — set the weight on a copy of the network, run the
whole forward
    pass — one per slot of SB3's `DummyVecEnv`;
(b) our single environment;
(c) our vector environment, K candidates at once;
(d) the bare products behind (c): weight, bias, ReLU, output layer and scoring, on activations that
lie ready; (e) the tensor API, whose actions, rewards and observations never leave the device.

Then a PPO run, with (a) and with (c). Timings on a shared machine are noisy: read the ratios.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

import editgym  # noqa: F401 - registers the environments
from agents.protocol import Budget
from agents.rl.agent import SB3Agent
from agents.rl.policies import lora_start
from editgym.envs.protocol import edit_env
from editgym.envs.sb3 import monitored
from editgym.tasks import make_task
from editgym.tasks.catalogue import checked_device
from editgym.tasks.unlearning import UnlearningTask
from editgym.weights import ActionLayout

BATCH = 1024


class HandWrittenMaskWorld(gym.Env):
    """What one would write in an afternoon: a copy of the network, a weight set on it, a full
    forward pass.
    """

    def __init__(self, task: UnlearningTask, seed: int, rank: int = 4) -> None:
        self.model = copy.deepcopy(task.networks[0].base)
        self.layer: nn.Linear = self.model.get_submodule(task.networks[0].sites[0].name)  # type: ignore[assignment]
        self.original = self.layer.weight.clone()
        self.images, self.labels = task.pool.inputs, task.pool.labels
        self.members = [task.goals[0].members[name] for name in ("retain", "forget")]
        self.rank = rank
        rows, columns = self.original.shape
        self.observation_space = spaces.Box(-5, 5, (rows * columns,), np.float32)
        self.action_space = spaces.Box(-1, 1, (rank * (rows + columns),), np.float32)
        self.generator = torch.Generator().manual_seed(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Set the original weight back."""
        super().reset(seed=seed)
        self.layer.weight.copy_(self.original)
        return self.layer.weight.cpu().numpy().flatten(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Mask the weight and score a fresh batch by the full forward pass."""
        rows, columns = self.original.shape
        factors = torch.from_numpy(action).to(self.original.device)
        a = factors[: rows * self.rank].view(rows, self.rank)
        b = factors[rows * self.rank :].view(self.rank, columns)
        self.layer.weight.copy_(
            self.layer.weight * (1 + (a @ b / self.rank**0.5).clamp(-1, 1)).clamp(0, 1)
        )
        scores = []
        for members in self.members:
            drawn = members[
                torch.randint(len(members), (BATCH,), generator=self.generator).to(members.device)
            ]
            probability = self.model(self.images[drawn]).softmax(-1)
            scores.append(float(probability.gather(1, self.labels[drawn].unsqueeze(1)).mean()))
        return (
            self.layer.weight.cpu().numpy().flatten(),
            3 * scores[0] - 2 * scores[1],
            True,
            False,
            {},
        )


def seconds_per_call(call: Callable[[], object], least: float, device: torch.device) -> float:
    """Mean time of `call` after one warm-up, over at least `least` seconds and three calls."""
    call()
    _wait(device)
    start, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - start < least:
        call()
        calls += 1
        _wait(device)
    return (time.perf_counter() - start) / calls


def by_hand(task: UnlearningTask, slots: int, least: float) -> float:
    """(a): seconds per candidate step."""
    env = DummyVecEnv([partial(HandWrittenMaskWorld, task, seed) for seed in range(slots)])
    env.reset()
    actions = np.stack([env.action_space.sample() for _ in range(slots)])
    with torch.no_grad():
        return seconds_per_call(lambda: env.step(actions), least, task.device) / slots


def single(kwargs: dict[str, Any], least: float, device: torch.device) -> float:
    """(b): seconds per step."""
    env = gym.make("MaskWorld-v0", **kwargs)
    action = env.action_space.sample()

    def episode() -> None:
        env.reset()
        env.step(action)

    env.reset(seed=0)
    return seconds_per_call(episode, least, device)


def vector(
    kwargs: dict[str, Any], candidates: int, least: float, device: torch.device, **options: Any
) -> float:
    """(c): seconds per candidate step."""
    env = gym.make_vec("MaskWorld-v0", num_envs=candidates, **kwargs, **options)
    env.reset(seed=0)
    actions = np.asarray(env.action_space.sample())
    return seconds_per_call(lambda: env.step(actions), least, device) / candidates


def tensor_api(
    kwargs: dict[str, Any], candidates: int, least: float, device: torch.device
) -> float:
    """(e): seconds per candidate step of `EditingProcess` itself: actions and rewards stay on the
    device.
    """
    env = gym.make_vec("MaskWorld-v0", num_envs=candidates, **kwargs)
    env.reset(seed=0)
    process = env.process  # type: ignore[attr-defined]
    actions = 2 * torch.rand(candidates, process.layout.size, device=device) - 1

    def step() -> None:
        process.reset()
        process.step(actions)

    return seconds_per_call(step, least, device) / candidates


def bare_suffix(task: UnlearningTask, candidates: int, least: float) -> float:
    """(d): seconds per candidate for the products alone: W·h + b, ReLU, the output layer,
    probability of the class.

    The same K and batches as (c): every candidate has its own 2 × 1,024 activations, which lie
    ready in memory.
    """
    network = task.networks[0]
    base = network.base
    weights = network.base_weights[0].expand(candidates, -1, -1).contiguous()
    rows = torch.randint(len(task.pool), (candidates, 2 * BATCH), device=task.device)
    activations = network.activations(task.pool.inputs)[0][rows]  # (K, 2 · batch, in)
    labels = task.pool.labels[rows].unsqueeze(-1)
    state = base.state_dict()

    def products() -> torch.Tensor:
        h = torch.baddbmm(state["fc2.bias"], activations, weights.mT).relu_()
        logits = torch.addmm(state["fc3.bias"], h.flatten(0, 1), state["fc3.weight"].mT).unflatten(
            0, h.shape[:2]
        )
        score = logits.softmax(-1).gather(-1, labels).squeeze(-1)
        return score.unflatten(-1, (2, BATCH)).mean(-1).cpu()

    with torch.no_grad():
        return seconds_per_call(products, least, task.device) / candidates


def ppo_run(
    make_env: Callable[[int], VecEnv], layout: ActionLayout, spec: EnvSpec, calls: int
) -> float:
    """Seconds of a PPO run with the agent's preset, `make_env(slots)` being made before the clock
    starts.
    """
    with closing(gym.make(spec)) as one:
        length = edit_env(one).episode_length
    agent = SB3Agent("ppo")
    settings = agent.resolved(spec).sized(length)
    assert settings.num_envs is not None
    if calls < settings.num_envs:
        agent = SB3Agent("ppo", rollout=calls, batch_size=calls)
        settings = agent.resolved(spec).sized(length)
    assert settings.num_envs is not None
    env = agent.refining(make_env(settings.num_envs), settings)
    first = lora_start(layout, settings.start, torch.Generator().manual_seed(0))
    start = time.perf_counter()
    agent.train(env, first, settings, Budget(calls), 0, spec.kwargs["device"])
    return time.perf_counter() - start


def ppo_times(
    task: UnlearningTask, kwargs: dict[str, Any], calls: int, calls_by_hand: int
) -> dict[str, Any]:
    """Seconds of a whole PPO run on (a) and on (c); (a) from `calls_by_hand` of its reward
    calls.
    """
    spec = copy.deepcopy(gym.spec("MaskWorld-v0"))
    spec.kwargs.update(kwargs)
    layout = ActionLayout(tuple(site.shape for site in task.networks[0].sites))

    def slow(slots: int) -> VecEnv:
        return DummyVecEnv([partial(HandWrittenMaskWorld, task, seed) for seed in range(slots)])

    def fast(slots: int) -> VecEnv:
        return monitored(gym.make_vec(spec, num_envs=slots, shared_batch=True))

    by_hand = ppo_run(slow, layout, spec, calls_by_hand)
    return {
        "ppo_calls": calls,
        "ppo_by_hand_measured_calls": calls_by_hand,
        "ppo_by_hand_s": by_hand * calls / calls_by_hand,
        "ppo_vector_s": ppo_run(fast, layout, spec, calls),
    }


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
    ratio = result["ppo_by_hand_s"] / result["ppo_vector_s"]
    measured = result["ppo_by_hand_measured_calls"]
    scaled = "" if measured == result["ppo_calls"] else f" (from {measured:,} of them)"
    lines.append(
        f"PPO, {result['ppo_calls']:,} reward calls: by hand {result['ppo_by_hand_s']:.1f}"
        f" s{scaled}, vector {result['ppo_vector_s']:.1f} s, ratio {ratio:.1f}"
    )
    return "\n".join(lines)


def hardware(device: str) -> dict[str, Any]:
    """What the timings were taken on."""
    named = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    )
    return {
        "device": device,
        "name": named or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--tasks", default="unlearning/digits,unlearning/mnist", help="default: %(default)s"
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
    try:
        results: dict[str, Any] = {
            "hardware": hardware(checked_device(options.device)),
            "tasks": [],
        }
        default = "1,8,64,256" + (",1024,4096" if options.device.startswith("cuda") else "")
        sizes = [int(size) for size in (options.sizes or default).split(",")]
        options.json.parent.mkdir(parents=True, exist_ok=True)
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
            options.json.write_text(json.dumps(results, indent=2) + "\n")
            print(table(result), flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
