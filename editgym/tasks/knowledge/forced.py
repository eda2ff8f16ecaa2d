"""Teacher-forced metrics: what an edited model makes of answers that it is given token by token."""

from __future__ import annotations

from collections.abc import Sequence

from editgym.data.facts import EditRequest, Question
from editgym.metrics.knowledge import Asked
from editgym.tasks.knowledge.exam import Answers, Exam, Result, average, per_request


def teacher_forced(
    exam: Exam,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    final: Sequence[Result],
    rephrased: Answers,
    near: Answers,
    far: Answers,
) -> list[tuple[float, float | None, float | None]]:
    """Teacher-forced efficacy, generalization and specificity of every request."""
    by_tokens = exam.task.teacher_forced == "accuracy" or not exam.thorough
    if by_tokens or not all(request.truth for request in requests):
        return [
            (
                one.accuracy,
                average([r.accuracy for _, r in again]),
                average([r.accuracy for _, r in (*close, *distant)]),
            )
            for one, again, close, distant in zip(final, rephrased, near, far, strict=True)
        ]
    # CounterFact's: is the new answer more probable than the old one, and beside it the other way
    # round? What the model would say instead is not asked.
    exam = Exam(exam.task, exam.decoder, forced_only=True)
    old = exam.expecting(
        [Question(text + r.prompt, r.truth) for text, r in zip(texts, requests, strict=True)]
    )
    old_again = per_request(
        exam, requests, texts, [[Question(p, r.truth) for p in r.test_rephrases] for r in requests]
    )
    right = per_request(exam, requests, texts, [[q for q in r.near if q.answer] for r in requests])
    wrong = per_request(
        exam,
        requests,
        texts,
        [[Question(q.prompt, r.target) for q in r.near if q.answer] for r in requests],
    )
    return [
        (
            float(one.log_probability > before.log_probability),
            _more_probable(again, again_before),
            _more_probable(stays, comes),
        )
        for one, before, again, again_before, stays, comes in zip(
            final, old, rephrased, old_again, right, wrong, strict=True
        )
    ]


def _more_probable(
    these: list[tuple[Asked, Result]], those: list[tuple[Asked, Result]]
) -> float | None:
    return average(
        [
            float(a.log_probability > b.log_probability)
            for (_, a), (_, b) in zip(these, those, strict=True)
        ]
    )
