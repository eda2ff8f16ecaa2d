"""What a language model answers before and after an edit, in several prompt formats, for the
command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import gymnasium as gym
import torch

from agents.command_line import UsageError
from editgym.envs.protocol import open_env, stream_env
from editgym.models.prompt_formats import PromptFormatError, prompt_format
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditJournal

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
