"""How probable other answers than the expected ones are, after prompts that were read once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editgym.tasks.knowledge.divergence import log_probabilities
from editgym.tasks.knowledge.expected import Expected, Tokens
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder, TokenBatch
from editgym.weights.language.kv_cache import beginnings, taken

if TYPE_CHECKING:
    from transformers import DynamicCache

_Other = tuple[int, Tokens]  # the place of a text, and another answer to it


def other_answers(
    task: KnowledgeTask,
    decoder: EditableDecoder,
    texts: Sequence[Expected],
    read: Tensor,
    cache: DynamicCache | None,
) -> list[tuple[float, ...]]:
    """Mean log-probabilities of the texts' other answers over the tokens that say something: all
    but an answer's ending, unless there are no others.

    Args:
        task: How the model is asked.
        decoder: The model with its edits.
        texts: Prompts with the expected answers and with others.
        read: Log-probabilities of all tokens where the expected answers are predicted,
            one text after the other.
        cache: What was read of prompts and expected answers; None where nothing can go on from it.
    """
    others = [(row, answer) for row, text in enumerate(texts) for answer in text.beside]
    if not others:
        return [()] * len(texts)
    ending = task.asking.ending
    said = [_said(answer, ending) for _, answer in others]
    if cache is None:
        logs = _read_whole(task, decoder, texts, others)
    else:
        firsts = list(accumulate((len(text.answer) for text in texts), initial=0))
        logs = [[float(read[firsts[row], answer[0]])] for row, answer in others]
        longer = [place for place, kept in enumerate(said) if kept[-1] > 0]
        if longer:
            fed = [
                (row, answer[: said[at][-1] + 1]) for at in longer for row, answer in [others[at]]
            ]
            for at, further in zip(longer, _gone_on(task, decoder, texts, fed, cache), strict=True):
                logs[at] += further
    means = (sum(own[at] for at in kept) / len(kept) for own, kept in zip(logs, said, strict=True))
    return [tuple(islice(means, len(text.beside))) for text in texts]


def _said(answer: Tokens, ending: Tokens) -> Sequence[int]:
    """Places of the tokens that say something."""
    return [at for at, token in enumerate(answer) if token not in ending] or range(len(answer))


def _read_whole(
    task: KnowledgeTask,
    decoder: EditableDecoder,
    texts: Sequence[Expected],
    others: Sequence[_Other],
) -> list[list[float]]:
    """Log-probabilities of other answers' tokens, prompts read anew."""
    batch = TokenBatch.of([(texts[row].prompt, answer) for row, answer in others], task.device)
    every = log_probabilities(decoder.logits(batch))
    own = iter(every.gather(-1, batch.labels[:, None])[:, 0].tolist())
    return [list(islice(own, len(answer))) for _, answer in others]


def _gone_on(
    task: KnowledgeTask,
    decoder: EditableDecoder,
    texts: Sequence[Expected],
    others: Sequence[_Other],
    cache: DynamicCache,
) -> list[list[float]]:
    """Log-probabilities of other answers' tokens but the first, after what was read of their
    prompts.
    """
    language, device = task.language, task.device
    fed = [answer[:-1] for _, answer in others]
    longest = max(map(len, fed))
    padded = [[language.pad_id] * (longest - len(ids)) + list(ids) for ids in fed]
    new = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in fed]
    read = beginnings([len(texts[row].prompt) for row, _ in others], max(map(len, texts)), device)
    mask = torch.cat([read, torch.tensor(new, device=device)], dim=1)
    own = taken(cache, [row for row, _ in others])
    with decoder.active():
        ids = torch.tensor(padded, device=device)
        logits, _ = language.decoding.calls.forward(ids, mask, own, kept=longest)
    every = log_probabilities(logits)
    return [
        [float(every[place, at - len(answer), answer[at]]) for at in range(1, len(answer))]
        for place, (_, answer) in enumerate(others)
    ]
