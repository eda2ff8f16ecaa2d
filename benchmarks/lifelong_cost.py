"""What a stream of edits costs: `python -m benchmarks.lifelong_cost --json FILE`.

Three comparisons, each of both sides in one run, so that a noisy machine is noisy for both:

- one environment step (training-free update, reward over the look back) beside the bare batched passes over the same
  tokens by the plain `transformers` model; the differentiable step, and a whole training step of RLEdit with its
  hypernetwork and Adam (gate and up projections of three layers), beside their forward and backward passes,
- the last 100 of 1,000 edits beside the first 100, per edit,
- memory held by the process beside the model and one fp32 matrix per site.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import torch.nn.functional as F
from torch import Tensor

import editgym  # noqa: F401 - registers the environments
from agents.hypernetwork import Hypernetwork
from agents.rledit import HypernetworkPolicy
from agents.sequence_learning import Learning
from benchmarks.lifelong_agents import LIFELONG_SITES
from benchmarks.measure import single_thread
from benchmarks.throughput import hardware
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv
from editgym.weights import TokenBatch

_RLEDIT_SITES = ["model.layers.[345].mlp.gate_proj", "model.layers.[345].mlp.up_proj"]


def make_env(device: str, **kwargs: Any) -> LifelongLLMEditEnv:
    """The lifelong suite's environment."""
    env = gym.make("LifelongLLMEdit-v0", **{"sites": LIFELONG_SITES, "device": device, **kwargs}).unwrapped
    assert isinstance(env, LifelongLLMEditEnv)
    return env


class BarePasses:
    """The passes that no implementation can do without, by the plain model, over the tokens of an environment step.

    Keeps the texts of the look back itself: the new prompts go forward and backward for keys and gradients, and forward
    once more after the edit; the rewarded texts of all batches looked back to go forward, or forward and backward.
    """

    def __init__(self, env: LifelongLLMEditEnv) -> None:
        self._env = env
        self._model: Any = env.task.language.model
        self._texts: list[TokenBatch] = []

    def see(self) -> None:
        """Take in the new batch."""
        requests, task = self._env.process.requests, self._env.task
        texts = TokenBatch.join([task.batch([(r.rephrases[0], r.target) for r in requests]),
                                 task.unchanged([r.locality[0].prompt for r in requests])])
        self._texts = [texts, *self._texts][:self._env.process.settings.reward.back_depth + 1]
        self._prompts = self._env.process.prompts

    def run(self, differentiable: bool) -> None:
        """All passes of one step."""
        self._pass(self._prompts, backward=True)
        self._pass(TokenBatch.join(self._texts), backward=differentiable)
        self._pass(self._prompts, backward=False)

    def _pass(self, batch: TokenBatch, backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            hidden = self._model.get_input_embeddings()(batch.ids)
            embedded = hidden.detach().requires_grad_(backward)
            logits = self._model(inputs_embeds=embedded, use_cache=False).logits
            loss = F.cross_entropy(logits[batch.rows, batch.positions], batch.labels)
        if backward:
            torch.autograd.grad(loss, embedded)


def step_ratio(device: str, differentiable: bool, steps: int) -> dict[str, float]:
    """Median seconds of a step and of its bare passes once the look back is full, and their ratio."""
    env = make_env(device, horizon=steps)
    env.reset(seed=0)
    bare = BarePasses(env)
    action = env.training_free_action()
    whole: list[float] = []
    passes: list[float] = []
    for step in range(steps):
        bare.see()
        passes.append(_seconds(lambda: bare.run(differentiable), device))
        if differentiable:
            flat = torch.from_numpy(action).to(env.task.device).requires_grad_()
            whole.append(_seconds(lambda: env.differentiable_step(flat).reward.backward(), device))  # noqa: B023 - now
        else:
            whole.append(_seconds(lambda: env.step(action), device))
        if step < env.process.settings.reward.back_depth:
            whole.clear()
            passes.clear()
    return {"step_s": statistics.median(whole), "passes_s": statistics.median(passes),
            "ratio": statistics.median(whole) / statistics.median(passes)}


def training_ratio(device: str, steps: int) -> dict[str, float]:
    """`step_ratio` of a training step of RLEdit."""
    env = make_env(device, horizon=steps, sites=_RLEDIT_SITES)
    env.reset(seed=0)
    bare, process = BarePasses(env), env.process
    network = Hypernetwork([site.shape for site in process.sites]).to(device)
    policy = HypernetworkPolicy(network, passes=1)
    optimizer = torch.optim.Adam(policy.groups(Learning(learning_rate=0.0, step_learning_rate=0.0)))

    def train() -> None:
        policy.losses(process).backward()
        optimizer.step()
        optimizer.zero_grad()

    whole: list[float] = []
    passes: list[float] = []
    for step in range(steps):
        bare.see()
        passes.append(_seconds(lambda: bare.run(True), device))
        whole.append(_seconds(train, device))
        if step < process.settings.reward.back_depth:
            whole.clear()
            passes.clear()
    return {"step_s": statistics.median(whole), "passes_s": statistics.median(passes),
            "ratio": statistics.median(whole) / statistics.median(passes)}


def edit_cost(device: str, edits: int) -> dict[str, float]:
    """Seconds per edit of the first and of the last 100 edits of a closed stream, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        env = make_env(device, split="test", horizon=edits // 10, journal_folder=folder)
        env.reset(seed=0)
        action = env.training_free_action()
        seconds = [_seconds(lambda: env.step(action), device) for _ in range(edits // 10)]
        held = held_bytes() - _bytes(_tensors_of_journal(env))
        model = _bytes(env.task.language.model.state_dict().values())
        sites = 4 * sum(rows * columns for rows, columns in (site.shape for site in env.process.sites))
    first, last = statistics.median(seconds[:10]) / 10, statistics.median(seconds[-10:]) / 10
    return {"first_100_s": first, "last_100_s": last, "ratio": last / first, "held_bytes": held, "model_bytes": model,
            "one_matrix_per_site_bytes": sites, "memory_ratio": held / (model + sites)}


def held_bytes() -> int:
    """Bytes of all tensors alive in this process, every storage once."""
    gc.collect()
    return _bytes(thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter))


def _tensors_of_journal(env: LifelongLLMEditEnv) -> list[Tensor]:
    """Mapped from files: the operating system drops them from memory when it likes."""
    return [part for entry in env.journal for part in (entry.update.a, entry.update.b)]  # type: ignore[union-attr]


def _bytes(tensors: Any) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lifelong_cost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=30, help="steps timed beside bare passes (default: %(default)s)")
    parser.add_argument("--edits", type=int, default=1_000, help="length of the long stream (default: %(default)s)")
    options = parser.parse_args(arguments)
    with single_thread():
        result = {"hardware": hardware(options.device), "edits": edit_cost(options.device, options.edits),
                  "step": step_ratio(options.device, False, options.steps),
                  "differentiable_step": step_ratio(options.device, True, options.steps),
                  "rledit_training_step": training_ratio(options.device, options.steps)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
