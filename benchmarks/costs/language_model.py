"""What editing a real language model costs: `python -m benchmarks.costs.language_model --model
smollm2-135m --json FILE`.

Each figure is a ratio of two things in one run, so that a noisy machine is noisy for both:

- evaluating a stream, beside the plain `transformers` model's own batched passes: the same texts
  read whole, in the same batches, and the same prompts decoded by `generate`,
- an UltraEdit step of ten edits, beside one forward and backward pass over their tokens,
- covariances, beside one forward pass over their tokens up to the last site; and read from disk;

and the seconds that making the environment takes in a process that has loaded nothing yet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from agents.catalogue import make_agent
from agents.editors.covariance import covariances
from agents.editors.stream import StreamEditor
from benchmarks.costs.bare_passes import seconds, there_and_back
from benchmarks.costs.files import add_files, beside, markdown, show, tens, write
from benchmarks.costs.hardware import hardware
from benchmarks.harness.machine import single_thread
from editgym.envs.lifelong.process import LifelongProcess
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv
from editgym.models.decoding import Decoding
from editgym.tasks.knowledge.answering import Answering
from editgym.tasks.knowledge.expected import Expected, Result
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder, TokenBatch
from editgym.weights.hooks import Reached, hooked
from editgym.weights.language.layers import below_head
from editgym.weights.language.tokens import by_length

_TOKENS = 50_000  # of covariances
_AT_ONCE = 8_192  # tokens of other answers with their prompts
_EPOCHS = 3  # comparisons, of which the median counts

Decoded = tuple[Sequence[Sequence[int]], Sequence[int], frozenset[int]]  # prompts, limits, ends


def evaluation_ratio(env: LifelongLLMEditEnv, editor: str) -> dict[str, float]:
    """Evaluating an edit beside the bare passes that its questions need."""
    env.reset(seed=0)
    journal = make_agent(editor).edit(env)
    env.evaluate(journal)  # what the unedited model says is known from here on
    batches: list[TokenBatch] = []
    decoded: list[Decoded] = []
    with _noted(batches, decoded):
        env.evaluate(journal)
    decoder = env.task.decoder.fresh()
    decoder.replay(journal)
    return _compared(
        lambda: env.evaluate(journal), lambda: _bare(env.task, decoder, batches, decoded), env
    )


@contextmanager
def _noted(batches: list[TokenBatch], decoded: list[Decoded]) -> Iterator[None]:
    """Note which batches the model reads, and what is decoded, as if each were read by itself."""
    logits, decode, results = EditableDecoder.logits, Decoding.decode, Answering.results

    def look(decoder: EditableDecoder, batch: TokenBatch, *args: Any, **named: Any) -> Any:
        batches.append(batch)
        return logits(decoder, batch, *args, **named)

    def look_at(own: Decoding, prompts: Any, limits: Any, context: int, stops: Any, *a: Any) -> Any:
        if prompts:
            decoded.append((prompts, limits, frozenset(stops)))
        return decode(own, prompts, limits, context, stops, *a)

    def look_on(own: Answering, texts: Sequence[Expected]) -> list[Result]:
        found, task, before = results(own, texts), own.task, len(decoded)
        others = [(text.prompt, answer) for text in texts for answer in text.beside]
        for group in by_length([len(prompt) + len(a) for prompt, a in others], _AT_ONCE):
            batches.append(TokenBatch.of([others[place] for place in group]))
        own_answers = [t for t, r in zip(texts, found, strict=True) if r.answer != t.said]
        if own_answers and len(decoded) == before:  # they went on from what was read
            limits = [max(task.max_new_tokens, len(text.answer)) for text in own_answers]
            prompts = [text.prompt for text in own_answers]
            decoded.append((prompts, limits, task.asking.stop_ids))
        return found

    with (
        mock.patch.object(EditableDecoder, "logits", look),
        mock.patch.object(Decoding, "decode", look_at),
        mock.patch.object(Answering, "results", look_on),
    ):
        yield


@torch.no_grad()
def _bare(
    task: KnowledgeTask,
    decoder: EditableDecoder,
    batches: Sequence[TokenBatch],
    decoded: Sequence[Decoded],
) -> None:
    """The same by the plain model: texts whole, and `generate`, by as many prompts as we take."""
    language = task.language
    with decoder.active() as model:
        for batch in batches:
            hidden = below_head(model)(input_ids=batch.ids, use_cache=False)[0]
            model.get_output_embeddings()(hidden[batch.rows, batch.positions]).log_softmax(-1)
        for prompts, limits, ends in decoded:
            for start in range(0, len(prompts), 128):
                some = prompts[start : start + 128]
                longest = max(map(len, some))
                ids = [[language.pad_id] * (longest - len(one)) + list(one) for one in some]
                mask = [[0] * (longest - len(one)) + [1] * len(one) for one in some]
                model.generate(
                    input_ids=torch.tensor(ids),
                    attention_mask=torch.tensor(mask),
                    max_new_tokens=max(limits),
                    do_sample=False,
                    eos_token_id=sorted(ends),
                    pad_token_id=language.pad_id,
                )


def step_ratio(env: LifelongLLMEditEnv) -> dict[str, float]:
    """An UltraEdit step of the environment's batch beside one pass there and back."""
    env.reset(seed=0)
    agent = make_agent("ultraedit")
    assert isinstance(agent, StreamEditor)
    agent.begin(env.process)

    def step(process: LifelongProcess) -> None:
        process.advance(agent.entries(process))

    ours, bare = [], []
    for _ in range(env.process.horizon):
        prompts, model = env.process.prompts, env.task.language.model
        bare.append(seconds(partial(there_and_back, model, prompts), env.task.device))
        ours.append(seconds(lambda: step(env.process), env.task.device))
    return _ratio(ours[1:], bare[1:])  # the first is a rehearsal


def covariance_ratio(task: KnowledgeTask) -> dict[str, float]:
    """Covariances from nothing beside one pass over their tokens, and from disk."""
    sites = task.decoder.sites
    text = task.text  # the model's own samples are drawn before
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("agents.editors.covariance.cache_folder", return_value=Path(folder)),
    ):
        cold = seconds(lambda: list(covariances(task, sites, _TOKENS)), task.device)
        warm = seconds(lambda: list(covariances(task, sites, _TOKENS)), task.device)
    bare = seconds(lambda: _read(task, list(text.passages())), task.device)
    return {"cold_s": cold, "bare_s": bare, "ratio": cold / bare, "warm_s": warm}


@torch.no_grad()
def _read(task: KnowledgeTask, passages: Sequence[str]) -> None:
    """One pass over the first tokens of a text, by passages of about one length, up to the last
    site.
    """
    texts: list[tuple[int, ...]] = []
    left = _TOKENS
    for passage in passages:
        ids = task.language.prompt_ids(passage)[: task.language.context]
        texts.append(ids[:left])
        left -= len(ids)
        if left <= 0:
            break
    model: Any = task.language.model
    last = model.get_submodule(task.decoder.sites[-1].name)

    def stop(_inputs: Any, _output: Any) -> None:
        raise Reached

    texts.sort(key=len)
    for start in range(0, len(texts), 16):
        some = texts[start : start + 16]
        longest = max(map(len, some))
        padded = torch.tensor([[*one, *[0] * (longest - len(one))] for one in some])
        with hooked(after=[(last, stop)]):
            below_head(model)(input_ids=padded, use_cache=False)


def _compared(
    ours: Callable[[], object], bare: Callable[[], object], env: LifelongLLMEditEnv
) -> dict[str, float]:
    pairs = [
        (seconds(ours, env.task.device), seconds(bare, env.task.device)) for _ in range(_EPOCHS)
    ]
    return _ratio(*map(list, zip(*pairs, strict=True)))


def _ratio(ours: Sequence[float], bare: Sequence[float]) -> dict[str, float]:
    first, second = statistics.median(ours), statistics.median(bare)
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    return {
        "ours_s": first,
        "bare_s": second,
        "ratio": statistics.median(ratios),
        "least_ratio": min(ratios),
    }


def table(result: dict[str, Any]) -> str:
    """The ratios as a Markdown table, each beside what it is the ratio of."""
    lines = [
        beside(f"{words}, asked in `{form}`", costs[key], "ours_s", "bare_s")
        for form, costs in result.items()
        if isinstance(costs, dict) and "ultraedit_step" in costs
        for key, words in (
            ("evaluation", "a stream evaluated, beside the plain model's batched passes"),
            ("ultraedit_step", "an UltraEdit step, beside a forward and backward pass"),
        )
    ]
    read = result["covariances"]
    lines.append(beside("covariances, beside one pass over their tokens", read, "cold_s", "bare_s"))
    lines.append(["covariances, read from disk", f"{read['warm_s']:.3g}", "—", "—"])
    return markdown(["what, in seconds", "here", "beside", "ratio"], lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.language_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model")
    add("--task", default="knowledge/counterfact")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="of the environment")
    add("--prompt-formats", default="bare,completion", metavar="A,B")
    add("--edits", type=tens, default=50, help="of the stream that is evaluated")
    add_files(parser)
    options = parser.parse_args(arguments)
    if options.show:
        return show(options.show, table)
    if options.model is None:
        parser.error("--model is needed where something is measured")
    from agents.command_line import settings

    common = {
        "task": options.task,
        "model": options.model,
        "split": "test",
        "edits_per_step": 10,
        **settings(options.set),
    }

    def made(**more: Any) -> LifelongLLMEditEnv:
        return LifelongLLMEditEnv(**common, **more)  # without wrappers: what is timed is inside

    with single_thread():
        start = time.perf_counter()
        env = made(horizon=1)
        result: dict[str, Any] = {
            "hardware": hardware("cpu"),
            "model": options.model,
            "make_s": time.perf_counter() - start,
            "covariances": covariance_ratio(env.task),
        }
        for form in options.prompt_formats.split(","):
            result[form] = {
                "evaluation": evaluation_ratio(
                    made(horizon=options.edits // 10, prompt_format=form), "ft_m"
                ),
                "ultraedit_step": step_ratio(made(horizon=6, prompt_format=form)),
            }
    write(options.json, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
