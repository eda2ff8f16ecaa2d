"""What the command line shows of an edit and writes of it: its metrics as a table, what a language
model answers before and after it, in several prompt formats, and the edited network.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from agents.command_line import UsageError
from agents.protocol import Agent, Unsupported
from editgym.envs.protocol import open_env, open_world, stream_env
from editgym.metrics.answers import SCORERS
from editgym.models.prompt_formats import PromptFormatError, prompt_format
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.tasks.protocol import network_of
from editgym.weights import (
    EditedWeights,
    EditJournal,
    Mask,
    export_adapter,
    export_merged,
    export_pretrained,
)

Metrics = Mapping[str, float | None]
_LONGEST_ANSWER = 60


def formats(text: str) -> list[str]:
    """The prompt formats of a comma-separated list."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        for name in names:
            prompt_format(name, "a format")
    except PromptFormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not names:
        raise argparse.ArgumentTypeError(f"expected formats with commas between, got {text!r}")
    return names


def asked_in(env: gym.Env, formats: Sequence[str]) -> dict[str, KnowledgeTask]:
    """The environment's task, asked in each of the formats.

    Raises:
        UsageError: The task has no language model.
        ValueError: A format is not known, or the model has no chat template.
    """
    if not formats:
        return {}
    task = open_env(env).task
    if not isinstance(task, KnowledgeTask):
        raise UsageError(f"--ask: {task.name} has no language model to be asked")
    return {form: task.asked(task.interview.in_format(form)) for form in formats}


def before_and_after(
    env: gym.Env, journal: EditJournal, variants: Mapping[str, KnowledgeTask]
) -> str:
    """What the model answers to the stream's prompts before and after the edit, in each format;
    and whether undoing it leaves nothing.
    """
    requests = stream_env(env).process.stream.requests
    prompts = [request.prompt for request in requests]
    decoder = next(iter(variants.values())).decoder.fresh()
    decoder.replay(journal)
    found = {
        form: (task.original_texts(prompts), Exam(task, decoder).answers(prompts))
        for form, task in variants.items()
    }
    width = max(map(len, found))
    lines = []
    for index, request in enumerate(requests):
        lines.append(f"{request.prompt} … {request.target}")
        for form, (before, after) in found.items():
            lines.append(f"  {form:{width}}  {_short(before[index])}  ->  {_short(after[index])}")
    decoder.rollback(0)
    undone = all(map(torch.equal, decoder.weights, decoder.base_weights)) and all(
        Exam(task, decoder).answers(prompts) == found[form][0] for form, task in variants.items()
    )
    if not undone:
        raise AssertionError("undoing the edit does not give the weights and answers of before")
    return "\n".join([*lines, "undone: every weight and every answer is what it was"])


def _short(answer: str) -> str:
    line = answer.replace("\n", " ")
    return repr(line if len(line) <= _LONGEST_ANSWER else f"{line[: _LONGEST_ANSWER - 1]}…")


def before_after(metrics: Metrics) -> str:
    """The metrics with a column before, if anything was measured then, and one after; without those
    that have no value, and without what another scorer says where it says the same.
    """
    names = [
        name for name in metrics if not name.endswith("_before") and not _says_again(name, metrics)
    ]
    width = max([24, *(len(name) + 1 for name in names)])
    told = any(metrics.get(f"{name}_before") is not None for name in names)
    heads = ["before", "after"] if told else ["after"]
    lines = [f"{'':{width}}" + "".join(f"{head:>10}" for head in heads)]
    for name in names:
        cells = [metrics.get(f"{name}_before"), metrics[name]][-len(heads) :]
        if any(cell is not None for cell in cells):
            shown = ("" if cell is None else format(cell, ".4f") for cell in cells)
            lines.append(f"{name:{width}}" + "".join(f"{cell:>10}" for cell in shown))
    return "\n".join(lines)


def _says_again(name: str, metrics: Metrics) -> bool:
    """Whether a metric is what another scorer says, and that is what the task's own says."""
    judged, at, form = name.partition("@")
    own, _, scorer = judged.rpartition("_")
    return scorer in SCORERS and metrics.get(f"{own}{at}{form}", object()) == metrics[name]


def check_adds(env: gym.Env, env_id: str) -> None:
    """Refuse to write a LoRA adapter of edits that scale weights.

    Raises:
        UsageError: The environment's edits do.
    """
    with suppress(Unsupported):  # of streams there is no operator
        if isinstance(open_world(env).operator, Mask):
            raise UsageError(
                f"--export adapter: {env_id} scales weights, and a LoRA adapter adds to them;"
                " --export merged writes the edited weights"
            )


def check_changes_weights(agent: Agent, name: str) -> None:
    """Refuse to export what an agent puts beside the weights.

    Raises:
        UsageError: The agent changes no weights.
    """
    if not getattr(agent, "changes_weights", True):  # most agents do, and need not say so
        raise UsageError(
            f"--export: {name} changes no weights, so neither an adapter nor a checkpoint can hold"
            " what it does; leave --export out, and journal.safetensors holds it"
        )


def export(env: gym.Env, journal: EditJournal, form: str, folder: Path) -> Path:
    """Write the edited network; a language model as a checkpoint with its tokenizer."""
    task: Any = open_env(env).task
    if not isinstance(task, KnowledgeTask):
        network: EditedWeights = network_of(task.networks, journal)
        if form == "adapter":
            return export_adapter(network, folder / "adapter")
        from editgym.models.sequence_classifiers import ToxicityTransformer  # loads slowly

        # A classifier of transformers is wrapped to be a network of two classes.
        inside = "model." if isinstance(network.base, ToxicityTransformer) else ""
        return export_merged(network, folder / "merged.safetensors", inside=inside)
    decoder = task.decoder.fresh()
    decoder.replay(journal)
    if form == "adapter":
        return export_adapter(decoder, folder / "adapter")
    task.language.tokenizer.save_pretrained(folder / "merged")
    return export_pretrained(decoder, folder / "merged")
