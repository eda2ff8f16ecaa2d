"""What edits should leave alone though nobody edits near it: text, and what the model knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from editgym.data.facts import EditRequest, Question
from editgym.tasks.knowledge import KnowledgeTask
from editgym.tasks.knowledge_exam import MOST_NATS, Exam
from editgym.tasks.known_facts import known_facts
from editgym.weights import EditableDecoder, TokenBatch


def perplexity_ratio(task: KnowledgeTask, decoder: EditableDecoder) -> float:
    """Perplexity of the edited model on the held-out text over the unedited one's."""
    batches = task.held_out_batches()
    before = task.remembered(f"nats of {task.text.hash}", lambda: _nats(task.decoder, batches))
    nats = float(_nats(decoder, batches) - before)
    return math.exp(min(nats, MOST_NATS) if math.isfinite(nats) else MOST_NATS)


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
    original = task.original_texts([question.prompt for question in questions])
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
