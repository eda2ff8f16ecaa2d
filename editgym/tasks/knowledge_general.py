"""What edits should leave alone though nobody edits near it: text, and what the model knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from editgym.data.facts import Question
from editgym.tasks.knowledge import KnowledgeTask
from editgym.tasks.knowledge_exam import MOST_NATS, Exam
from editgym.weights import EditableDecoder


def perplexity_ratio(task: KnowledgeTask, decoder: EditableDecoder) -> float:
    """Perplexity of the edited model on the fixed text over the unedited one's."""
    text = task.filler_batch(len(task.filler))
    with torch.no_grad():
        now, before = (
            F.cross_entropy(one.logits(text).float(), text.labels)
            for one in (decoder, task.decoder)
        )
    nats = float(now - before)
    return math.exp(min(nats, MOST_NATS) if math.isfinite(nats) else MOST_NATS)


def capability(exam: Exam) -> float | None:
    """(accuracy − chance) / (accuracy of the unedited model − chance) on the task's known
    questions.
    """
    task = exam.task
    if task.known is None:
        return None
    questions, chance = task.known
    original = task.original_texts([question.prompt for question in questions])
    before = _accuracy(exam, original, questions)
    now = _accuracy(exam, [result.answer for result in exam.expecting(questions)], questions)
    return None if before <= chance else (now - chance) / (before - chance)


def _accuracy(exam: Exam, answers: Sequence[str], questions: Sequence[Question]) -> float:
    gives = exam.task.scorer.gives
    right = [
        gives(answer, question.answer or "")
        for answer, question in zip(answers, questions, strict=True)
    ]
    return sum(right) / len(right)
