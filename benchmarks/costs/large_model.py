"""What edits of a large model cost: `python -m benchmarks.costs.large_model --json FILE --device
cuda`.

The model has the shape of a published one and random weights, in bf16 on a GPU: what a pass costs
does not depend on what the weights know. The requests are FactWorld's. Timed, in one run and once
the look back is full:

- `edit_step`: what an editor takes for a batch of new facts (UltraEdit's update at every site, no
  reward),
- `rledit_edit_step`: the same with a hypernetwork of the published size,
- `environment_step`: the singular directions of UltraEdit's update that coefficients stretch,
  applied, and the reward, beside the bare passes over the same tokens,
- `rledit_training_step`: a differentiable step, the hypernetwork's gradients and Adam, beside the
  bare passes.

Each with the peak of the device's memory while it was taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from agents.editors.ultraedit import UltraEditAgent
from agents.hypernetworks.network import Hypernetwork
from agents.hypernetworks.policy import HypernetworkPolicy
from benchmarks.costs.bare_passes import beside_passes, rledit_training_step, seconds
from benchmarks.costs.files import add_files, markdown, show, write
from benchmarks.costs.hardware import hardware
from editgym.data.factworld import FactWorld
from editgym.envs.lifelong.process import DIRECTIONS, LifelongProcess, LifelongSettings
from editgym.envs.lifelong.reward import RewardWeights
from editgym.models.language import BUNDLED, LanguageModel
from editgym.tasks.knowledge.factworld import drawn_from
from editgym.tasks.knowledge.task import KnowledgeTask, StreamSplit

SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "vocab_size": 128_256,
        "hidden_size": 4_096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 4_096,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}
# Nine middle-to-late layers, as many as RLEdit edits of this model.
SITES = {
    "llama-3-8b": [
        "model.layers.1[5-9].mlp.gate_proj",
        "model.layers.2[0-3].mlp.gate_proj",
        "model.layers.1[5-9].mlp.up_proj",
        "model.layers.2[0-3].mlp.up_proj",
    ],
    "tiny": ["model.layers.[3-6].mlp.gate_proj", "model.layers.[3-6].mlp.up_proj"],
}


def random_model(shape: str, device: str) -> LanguageModel:
    """A Llama of a shape of `SHAPES` with random weights, bf16, and factlm's tokenizer."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8_192, tie_word_embeddings=False)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return LanguageModel(model, AutoTokenizer.from_pretrained(BUNDLED))


def make_process(
    task: KnowledgeTask, split: StreamSplit, steps: int, options: argparse.Namespace
) -> LifelongProcess:
    """A stream that is as long as it is timed."""
    process = LifelongProcess(
        task,
        LifelongSettings(
            options.edits_per_step,
            steps,
            split,
            reward=RewardWeights(micro_batch=options.micro_batch),
        ),
    )
    process.reset(0)
    return process


def edit_step(process: LifelongProcess, edit: Callable[[], object], count: int) -> dict[str, float]:
    """Median seconds of a closed step, all but the first, and per fact."""
    each = []
    for _ in range(1 + count):
        requests = len(process.requests)
        each.append(seconds(edit, process.device))
    return {
        "step_s": statistics.median(each[1:]),
        "s_per_fact": statistics.median(each[1:]) / requests,
    }


def ultraedit_step(process: LifelongProcess) -> Callable[[], object]:
    """One step with UltraEdit's update."""
    editor = UltraEditAgent()
    editor.begin(process)
    return lambda: process.advance(editor.entries(process))


def coefficients_step(process: LifelongProcess) -> Callable[[], object]:
    """One step of the environment with every coefficient at UltraEdit's."""
    ones = torch.ones(len(process.sites), DIRECTIONS, device=process.device)
    return lambda: process.step(process.stretched(ones))


def rledit_step(process: LifelongProcess) -> Callable[[], object]:
    """One step with a hypernetwork's update."""
    policy = HypernetworkPolicy(Hypernetwork([site.shape for site in process.sites]), 1).to(
        process.device
    )
    return lambda: process.advance(policy.entries(process))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All that the module's docstring lists."""
    language = random_model(options.shape, options.device)
    task = KnowledgeTask(
        "knowledge/factworld", language, SITES[options.shape], drawn_from(FactWorld())
    )
    model = sum(p.numel() * p.element_size() for p in language.model.parameters())
    matrices = 4 * sum(site.shape[0] * site.shape[1] for site in task.decoder.sites)
    result: dict[str, Any] = {
        "hardware": hardware(options.device),
        "shape": options.shape,
        "dtype": "bfloat16",
        "parameters": language.model.num_parameters(),
        "edits_per_step": options.edits_per_step,
        "micro_batch": options.micro_batch,
        "back_depth": RewardWeights().back_depth,
        "sites": [site.name for site in task.decoder.sites],
        "model_bytes": model,
        "one_matrix_per_site_bytes": matrices,
    }
    steps, looked_back = 1 + options.steps, RewardWeights().back_depth + options.steps
    kinds: dict[str, tuple[StreamSplit, int, Callable[[LifelongProcess], dict[str, float]]]] = {
        "edit_step": ("test", steps, lambda p: edit_step(p, ultraedit_step(p), options.steps)),
        "rledit_edit_step": ("test", steps, lambda p: edit_step(p, rledit_step(p), options.steps)),
        "environment_step": (
            "policy",
            looked_back,
            lambda p: beside_passes(p, coefficients_step(p), False, options.steps),
        ),
        "rledit_training_step": (
            "policy",
            looked_back,
            lambda p: beside_passes(p, rledit_training_step(p), True, options.steps),
        ),
    }
    for name, (split, length, timed) in kinds.items():
        process = make_process(task, split, length, options)
        result[name] = with_peak_memory(partial(timed, process), process.device, model + matrices)
        print(name, json.dumps(result[name]), flush=True)
    return result


def with_peak_memory(
    function: Callable[[], dict[str, float]], device: torch.device, least: int
) -> dict[str, float]:
    """What `function` found, and on CUDA the device's peak memory beside what has to be there."""
    if device.type != "cuda":
        return function()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    found = function()
    peak = torch.cuda.max_memory_allocated(device)
    return {**found, "peak_memory_bytes": peak, "peak_over_model_and_matrices": peak / least}


def table(result: dict[str, Any]) -> str:
    """The timings as a Markdown table: seconds of a step, in brackets milliseconds of a fact where
    nothing but the edit is made, the ratio to bare passes, and on CUDA the peak memory.
    """
    facts = result["edits_per_step"]
    lines = []
    for key, words in (
        ("edit_step", f"UltraEdit's edit of {facts} facts"),
        ("rledit_edit_step", f"RLEdit's edit of {facts} facts, a network of the published size"),
        ("environment_step", "environment step with its reward"),
        ("rledit_training_step", "RLEdit's training step, with network and Adam"),
    ):
        found = result[key]
        fact = f" ({1e3 * found['s_per_fact']:.0f} ms a fact)" if "s_per_fact" in found else ""
        peak, over = found.get("peak_memory_bytes"), found.get("peak_over_model_and_matrices")
        lines.append(
            [
                words,
                f"{found['step_s']:.3f}{fact}",
                f"{found['ratio']:.2f}" if "ratio" in found else "—",
                f"{peak / 1e9:.1f}" if peak is not None else "—",
                f"{over:.2f}" if over is not None else "—",
            ]
        )
    return markdown(
        [
            f"{result['hardware']['name']}, {result['dtype']}",
            "seconds a step",
            "beside bare passes",
            "peak memory, GB",
            "over model and one fp32 matrix per site",
        ],
        lines,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.large_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="llama-3-8b")
    parser.add_argument("--edits-per-step", type=int, default=20)
    parser.add_argument(
        "--micro-batch",
        type=int,
        default=110,
        help="rewarded texts at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="steps timed of each kind (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, table)
    result = measure(options)
    write(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
