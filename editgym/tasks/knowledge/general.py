"""What edits should leave alone though nobody edits near it: text, and what the model knows."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch import Tensor

from editgym.data.facts import EditRequest, Question
from editgym.models.identity import identity
from editgym.paths import cache_folder, whole_file
from editgym.tasks.knowledge.answering import MOST_NATS
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.known_facts import known_facts
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder, TokenBatch


def perplexity_ratio(task: KnowledgeTask, decoder: EditableDecoder) -> float:
    """Perplexity of the edited model on the held-out text over the unedited one's."""
    batches = task.held_out_batches()
    nats = float(_nats(decoder, batches) - _nats_unedited(task, batches))
    return math.exp(min(nats, MOST_NATS) if math.isfinite(nats) else MOST_NATS)


def _nats_unedited(task: KnowledgeTask, batches: Sequence[TokenBatch]) -> Tensor:
    """`_nats` of the unedited model, kept in memory with the model, and on disk by model, text and
    all that decides about its last digits.
    """
    parts = [
        identity(task.language),
        task.text.hash,
        str(task.device),
        torch.get_num_threads(),
        torch.__version__,
    ]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    known = task.language.numbers
    if name not in known:
        path = cache_folder() / "perplexity" / f"{name}.json"
        with suppress(OSError, ValueError):  # there is none, or it is torn
            known[name] = torch.tensor(float(json.loads(path.read_text())), device=task.device)
        if name not in known:
            known[name] = _nats(task.decoder, batches)
            with suppress(OSError), whole_file(path) as partial:  # it is only faster with it
                partial.write_text(json.dumps(float(known[name])))
    return known[name]


@torch.no_grad()
def _nats(decoder: EditableDecoder, batches: Sequence[TokenBatch]) -> Tensor:
    """Mean cross-entropy over all tokens, scalar."""
    count = sum(len(batch.labels) for batch in batches)
    means = [F.cross_entropy(decoder.logits(one).float(), one.labels) for one in batches]
    return torch.stack(
        [mean * (len(one.labels) / count) for mean, one in zip(means, batches, strict=True)]
    ).sum()


def general_knowledge(
    exam: Exam, requests: Sequence[EditRequest]
) -> tuple[float | None, float | None]:
    """What the edited model still knows beside the edits.

    Returns:
        `capability`: (accuracy − chance) / (accuracy of the unedited model − chance) on the task's
        known questions; None where it has none. `known_kept`: the share of `known_facts` that is
        still answered; None where there are fewer than 20.
    """
    task = exam.task
    facts = known_facts(task, requests)
    questions, chance = task.known or ((), 0.0)
    every = list(dict.fromkeys([*questions, *facts]))
    answers = {
        question: result.answer
        for question, result in zip(every, exam.expecting(every), strict=True)
    }
    kept = _accuracy(exam, [answers[fact] for fact in facts], facts) if facts else None
    if not questions:
        return None, kept
    original = task.original_texts_beside([(one.prompt, one.answer or "") for one in questions])
    before = _accuracy(exam, original, questions)
    now = _accuracy(exam, [answers[question] for question in questions], questions)
    return None if before <= chance else (now - chance) / (before - chance), kept


def _accuracy(exam: Exam, answers: Sequence[str], questions: Sequence[Question]) -> float:
    gives = exam.task.scorer.gives
    right = [
        gives(answer, question.answer or "")
        for answer, question in zip(answers, questions, strict=True)
    ]
    return sum(right) / len(right)
