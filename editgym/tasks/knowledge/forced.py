"""Teacher-forced metrics: what an edited model makes of answers that it is given token by token."""

from __future__ import annotations

from collections.abc import Sequence

from editgym.data.facts import EditRequest, Question
from editgym.tasks.knowledge.exam import Answers, Exam, average
from editgym.tasks.knowledge.expected import Result


def compares_answers(exam: Exam, requests: Sequence[EditRequest]) -> bool:
    """Whether the metrics are CounterFact's, which compare the probabilities of two answers: is the
    new one more probable than the old one, and beside it the other way round? Otherwise they are
    shares of tokens.
    """
    by_probability = exam.task.teacher_forced == "probability" and exam.thorough
    return by_probability and all(request.truth for request in requests)


def old_answer(request: EditRequest, question: Question) -> Sequence[str]:
    """What an edited answer is compared with."""
    return (request.truth,) if request.truth else ()


def right_and_new_answer(request: EditRequest, question: Question) -> Sequence[str]:
    """What is compared where nothing should have changed."""
    return (question.answer, request.target) if question.answer else ()


def teacher_forced(
    compares: bool, final: Sequence[Result], rephrased: Answers, near: Answers, far: Answers
) -> list[tuple[float, float | None, float | None]]:
    """Teacher-forced efficacy, generalization and specificity of every request.

    Args:
        compares: Whether they compare two answers; the results have these beside the expected ones
            then (`old_answer`, `right_and_new_answer`).
        final: Results for the requests' own prompts.
        rephrased: For their rephrases.
        near: For what is near to them.
        far: For what is not.
    """
    if compares:
        return [
            (
                float(one.log_probability > one.beside[0]),
                average([float(r.log_probability > r.beside[0]) for _, r in again]),
                average([float(r.beside[0] > r.beside[1]) for _, r in close if r.beside]),
            )
            for one, again, close in zip(final, rephrased, near, strict=True)
        ]
    return [
        (
            one.accuracy,
            average([r.accuracy for _, r in again]),
            average([r.accuracy for _, r in (*close, *distant)]),
        )
        for one, again, close, distant in zip(final, rephrased, near, far, strict=True)
    ]
