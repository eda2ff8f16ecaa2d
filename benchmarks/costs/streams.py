"""What a stream of edits costs: `python -m benchmarks.costs.streams --json FILE`.

Three comparisons, each of both sides in one run, so that a noisy machine is noisy for both:

- one environment step (training-free update, reward over the look back) beside the bare batched
  passes over the same tokens by the plain `transformers` model; the differentiable step, and a
  whole training step of RLEdit with its hypernetwork and Adam (gate and up projections of three
  layers), beside their forward and backward passes,
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
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.costs.bare_passes import beside_passes, rledit_training_step, seconds
from benchmarks.costs.files import add_files, beside, markdown, show, tens, write
from benchmarks.costs.hardware import hardware
from benchmarks.harness.machine import single_thread
from benchmarks.suites.editors import LIFELONG_SITES
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv
from editgym.weights import LowRankFactors, SiteEdit

_LOOK_BACK = 10  # batches before the one that is timed
_RLEDIT_SITES = ["model.layers.[345].mlp.gate_proj", "model.layers.[345].mlp.up_proj"]


def make_env(device: str, **kwargs: Any) -> LifelongLLMEditEnv:
    """The lifelong suite's environment, without Gymnasium's wrappers: what is timed is the step."""
    return LifelongLLMEditEnv(
        **{"sites": LIFELONG_SITES, "device": device, "back_depth": _LOOK_BACK, **kwargs}
    )


def step_ratio(device: str, differentiable: bool, steps: int) -> dict[str, float]:
    """An environment step, or its differentiable form, beside its bare passes."""
    env = make_env(device, horizon=_LOOK_BACK + steps)
    env.reset(seed=0)
    action = env.training_free_action()
    flat = torch.from_numpy(action).to(env.task.device).requires_grad_()
    return beside_passes(
        env.process,
        (
            (lambda: env.differentiable_step(flat).reward.backward())
            if differentiable
            else lambda: env.step(action)
        ),
        differentiable,
        steps,
    )


def training_ratio(device: str, steps: int) -> dict[str, float]:
    """`step_ratio` of a training step of RLEdit."""
    process = make_env(device, horizon=_LOOK_BACK + steps, sites=_RLEDIT_SITES).process
    process.reset(0)
    return beside_passes(process, rledit_training_step(process), True, steps)


def edit_cost(device: str, edits: int) -> dict[str, float]:
    """Seconds per edit of the first and of the last 100 edits of a closed stream, and their
    ratio.
    """
    with tempfile.TemporaryDirectory() as folder:
        env = make_env(device, split="test", horizon=edits // 10, journal_folder=folder)
        env.reset(seed=0)
        action = env.training_free_action()
        each = [seconds(lambda: env.step(action), env.task.device) for _ in range(edits // 10)]
        held = held_bytes() - _bytes(_tensors_of_journal(env))
        model = _bytes(env.task.language.model.state_dict().values())
        sites = 4 * sum(
            rows * columns for rows, columns in (site.shape for site in env.process.sites)
        )
    first, last = statistics.median(each[:10]) / 10, statistics.median(each[-10:]) / 10
    return {
        "first_100_s": first,
        "last_100_s": last,
        "ratio": last / first,
        "held_bytes": held,
        "model_bytes": model,
        "one_matrix_per_site_bytes": sites,
        "memory_ratio": held / (model + sites),
    }


def held_bytes() -> int:
    """Bytes of all tensors alive in this process, every storage once."""
    gc.collect()
    return _bytes(
        thing for thing in gc.get_objects() if type(thing) in (Tensor, torch.nn.Parameter)
    )


def _tensors_of_journal(env: LifelongLLMEditEnv) -> list[Tensor]:
    """The factors, mapped from files: the operating system drops them when it likes."""
    updates = [entry.update for entry in env.journal if isinstance(entry, SiteEdit)]
    low_rank = [update for update in updates if isinstance(update, LowRankFactors)]
    return [part for update in low_rank for part in (update.a, update.b)]


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = [part.untyped_storage() for one in tensors for part in _strided(one)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _strided(tensor: Tensor) -> Sequence[Tensor]:
    """The tensors that hold a tensor's numbers: itself, or of a sparse one places and values."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


def table(result: dict[str, Any]) -> str:
    """The ratios as a Markdown table, each beside what it is the ratio of."""
    edits, mega = result["edits"], 1e6
    least = edits["model_bytes"] + edits["one_matrix_per_site_bytes"]
    return markdown(
        ["what", "here", "beside", "ratio"],
        [
            beside(f"{words}, s, beside bare passes", result[key], "step_s", "passes_s")
            for key, words in (
                ("step", "environment step"),
                ("differentiable_step", "differentiable step"),
                ("rledit_training_step", "RLEdit's training step"),
            )
        ]
        + [
            beside(
                "one of the last 100 edits, s, beside the first", edits, "last_100_s", "first_100_s"
            ),
            [
                "memory held, MB, beside model and one fp32 matrix per site",
                f"{edits['held_bytes'] / mega:.3g}",
                f"{least / mega:.3g}",
                f"{edits['memory_ratio']:.2f}",
            ],
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.streams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--steps",
        type=int,
        default=30,
        help="steps timed beside bare passes (default: %(default)s)",
    )
    parser.add_argument(
        "--edits", type=tens, default=1_000, help="length of the long stream (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, table)
    with single_thread():
        result = {
            "hardware": hardware(options.device),
            "edits": edit_cost(options.device, options.edits),
            "step": step_ratio(options.device, False, options.steps),
            "differentiable_step": step_ratio(options.device, True, options.steps),
            "rledit_training_step": training_ratio(options.device, options.steps),
        }
    write(options.json, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
