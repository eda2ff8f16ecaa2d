"""Choose the unlearning algorithms' settings on validation data: `python -m
benchmarks.tuning.unlearning --out FILE`.

Every configuration of `GRIDS` edits the networks of `MODEL_SEEDS`, which no report uses, and is
scored on their validation split: the harmonic mean of retain accuracy and drop in forget accuracy,
by which the leaderboard ranks, of the mean accuracies over networks. The best of each algorithm is
what `agents.unlearning.settings` holds. Finished configurations are in FILE, a JSON object per
line, and are not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from tqdm import tqdm

import editgym  # noqa: F401 - registers the environments
from agents.unlearning.agent import Unlearner
from agents.unlearning.settings import NAMES, SITE
from benchmarks.harness.machine import single_thread
from benchmarks.results import append_row, canonical_json, finished
from benchmarks.tuning.grid import grid
from editgym.envs.protocol import open_env
from editgym.metrics.classification import accuracy
from editgym.tasks.unlearning import UnlearningTask
from editgym.weights import EditableNetwork

MODEL_SEEDS: Mapping[str, Sequence[int]] = {
    "unlearning/digits": (10, 11, 12, 13),
    "unlearning/mnist": (10,),
    "unlearning/cifar10": (10,),
}
SITES = {
    "unlearning/cifar10": ["layer3.2.conv2"]
}  # what the leaderboard edits there; elsewhere the default


_RELABEL = [
    *grid(retain_weight=[1.0], learning_rate=[1e-3, 3e-3, 1e-2, 3e-2], epochs=[5]),
    *grid(retain_weight=[0.0], learning_rate=[1e-3, 3e-3, 1e-2], epochs=[5]),
]
_SSD = grid(alpha=[1.0, 2.0, 5.0, 10.0, 25.0], dampening=[1.0, 0.3, 0.1])
_DIGITS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "fine_tune": grid(learning_rate=[0.01, 0.03, 0.1], epochs=[5, 10]),
    "gradient_ascent": grid(
        learning_rate=[3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2], epochs=[3, 5, 10]
    ),
    "neggrad_plus": grid(
        beta=[0.8, 0.9, 0.95, 0.99, 0.999], learning_rate=[1e-3, 3e-3, 1e-2], epochs=[5, 10]
    ),
    "random_labels": _RELABEL,
    "ssd": _SSD,
    "salun": _RELABEL,
    "scrub": grid(
        learning_rate=[1e-3, 3e-3, 1e-2, 3e-2],
        ascent_epochs=[1, 3],
        epochs=[5, 10],
        gamma=[1.0, 5.0],
    ),
}
# A pass over MNIST is as many steps as eight over the digits.
_RELABEL_LARGER = [
    *grid(retain_weight=[1.0], learning_rate=[1e-3, 3e-3, 1e-2], epochs=[1]),
    *grid(retain_weight=[1.0], learning_rate=[3e-3], epochs=[3]),
]
_LARGER: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "fine_tune": grid(learning_rate=[0.01, 0.03, 0.1], epochs=[1]),
    "gradient_ascent": grid(learning_rate=[3e-4, 1e-3, 3e-3, 1e-2, 2e-2], epochs=[1, 2]),
    "neggrad_plus": grid(beta=[0.9, 0.95, 0.99], learning_rate=[3e-3, 1e-2], epochs=[1]),
    "random_labels": _RELABEL_LARGER,
    "ssd": _SSD,
    "salun": _RELABEL_LARGER,
    "scrub": grid(
        learning_rate=[3e-3, 1e-2, 3e-2], ascent_epochs=[1], epochs=[1, 2], gamma=[1.0, 5.0]
    ),
}
# A pass of the residual network takes twenty seconds on one core, and in evaluation mode it bears
# smaller steps.
_RELABEL_RESIDUAL = grid(retain_weight=[1.0], learning_rate=[3e-4, 1e-3, 3e-3], epochs=[1])
_RESIDUAL: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "fine_tune": grid(learning_rate=[1e-3, 3e-3, 1e-2, 3e-2], epochs=[1]),
    "gradient_ascent": grid(learning_rate=[1e-4, 2e-4, 3e-4, 1e-3, 3e-3, 1e-2], epochs=[1, 2]),
    "neggrad_plus": grid(beta=[0.9, 0.99], learning_rate=[1e-3, 3e-3, 1e-2], epochs=[1]),
    "random_labels": _RELABEL_RESIDUAL,
    "ssd": [
        *grid(alpha=[2.0, 5.0, 10.0, 25.0], dampening=[1.0, 0.1]),
        *grid(alpha=[50.0], dampening=[1.0]),
    ],
    "salun": _RELABEL_RESIDUAL,
    "scrub": [
        *grid(learning_rate=[1e-3, 3e-3], ascent_epochs=[1], epochs=[1], gamma=[1.0, 5.0]),
        *grid(learning_rate=[1e-2, 3e-2], ascent_epochs=[1], epochs=[1], gamma=[5.0]),
    ],
}
GRIDS = {"unlearning/digits": _DIGITS, "unlearning/mnist": _LARGER, "unlearning/cifar10": _RESIDUAL}


def score(task: str, name: str, config: Mapping[str, Any], model_seed: int) -> dict[str, Any]:
    """Validation accuracies of one configuration on one network; None where it ended in numbers
    that are not finite.
    """
    arguments: dict[str, Any] = {"sites": SITES[task]} if task in SITES else {}
    with single_thread():
        env = gym.make("MaskWorld-v0", task=task, model_seed=model_seed, **arguments)
        unlearning: UnlearningTask = open_env(env).task
        network = unlearning.networks[0].fresh()
        before = _accuracies(unlearning, network)
        try:
            network.replay(Unlearner(name, **config).edit(env))
            after: tuple[float | None, float | None] = _accuracies(unlearning, network)
        except ValueError:
            after = (None, None)
    return {
        "task": task,
        "agent": name,
        "config": dict(config),
        "model_seed": model_seed,
        "retain": after[0],
        "forget": after[1],
        "retain_before": before[0],
        "forget_before": before[1],
    }


def _accuracies(task: UnlearningTask, network: EditableNetwork) -> tuple[float, float]:
    """(retain, forget) on the validation split."""
    data = task.splits.validation
    forgotten = torch.isin(data.labels, torch.tensor(task.forget[0], device=data.labels.device))
    kept, gone = data[~forgotten], data[forgotten]
    return accuracy(network.logits(kept.inputs), kept.labels), accuracy(
        network.logits(gone.inputs), gone.labels
    )


def best(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[float, dict[str, Any]]]:
    """By task and agent: the highest score, and its configuration; the first of equals, and none
    that ever failed.
    """
    runs: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        runs.setdefault((row["task"], row["agent"], canonical_json(row["config"])), []).append(row)
    chosen: dict[tuple[str, str], tuple[float, dict[str, Any]]] = {}
    for (task, agent, config), own in runs.items():
        if any(row["retain"] is None for row in own):
            continue
        drop = statistics.fmean(row["forget_before"] - row["forget"] for row in own)
        value = statistics.harmonic_mean(
            [statistics.fmean(row["retain"] for row in own), max(0.0, drop)]
        )
        if (task, agent) not in chosen or value > chosen[task, agent][0]:
            chosen[task, agent] = value, json.loads(config)
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning.unlearning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--agents", help=f"comma-separated, of {', '.join(NAMES)} (default: all)")
    parser.add_argument(
        "--tasks", default="unlearning/digits,unlearning/mnist", help="(default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    agents, tasks = (
        (options.agents.split(",") if options.agents else list(NAMES)),
        options.tasks.split(","),
    )
    for what, given, known in (
        ("--agents", agents, list(NAMES)),
        ("--tasks", tasks, list(MODEL_SEEDS)),
    ):
        if unknown := sorted(set(given) - set(known)):
            print(
                f"error: {what}: there is no {', '.join(unknown)}; there are {', '.join(known)}",
                file=sys.stderr,
            )
            return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = {
        canonical_json([row["task"], row["agent"], row["config"], row["model_seed"]])
        for row in finished(options.out)
    }
    wanted = [
        (task, agent, config, seed)
        for task in tasks
        for seed in MODEL_SEEDS[task]
        for agent in agents
        for config in GRIDS[task][agent.removesuffix(SITE)]
    ]
    missing = [run for run in wanted if canonical_json(list(run)) not in done]
    for run in tqdm(missing, unit="run", mininterval=1.0):
        append_row(options.out, score(*run))
    for (task, agent), (value, config) in best(finished(options.out)).items():
        print(f"{task:18} {agent:20} {value:.4f}  {json.dumps(config)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
