"""One record per edit: everything that is asked about it, and what the models answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from editgym.data.facts import EditRequest, Question
from editgym.metrics.knowledge import Asked, EditRecord
from editgym.tasks.knowledge.exam import Answers, Exam, average, per_request
from editgym.tasks.knowledge.expected import Result
from editgym.tasks.knowledge.forced import (
    compares_answers,
    old_answer,
    right_and_new_answer,
    teacher_forced,
)


def edit_records(
    exam: Exam,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    numbers: Sequence[int],
    now: Sequence[str | None],
    skipped: Mapping[int, str],
    edits_per_step: int,
    overwritten: Mapping[int, int],
) -> list[EditRecord]:
    """One record per request; every kind of question is asked for all requests at once.

    Args:
        exam: Asks the edited model.
        requests: The stream's, or some of them.
        texts: What stands before every prompt of a request; empty for nothing.
        numbers: Places of the requests in the stream, from 0.
        now: The answers to the requests' prompts right after their edits; None where they were not
            asked then.
        skipped: Why requests were not edited, by place in the stream.
        edits_per_step: Requests in a step.
        overwritten: The later edits that overwrite requests, by these' places in the stream.
    """
    found = _answers(exam, requests, texts)
    records = []
    for index, (number, request) in enumerate(zip(numbers, requests, strict=True)):
        efficacy, generalization, specificity = found.forced[index]
        records.append(
            EditRecord(
                edit=number,
                step=number // edits_per_step,
                subject=request.subject,
                prompt=request.prompt,
                target=request.target,
                answer_now=now[index],
                answer=found.final[index].answer,
                rephrases=_asked(request, found.rephrased[index]),
                portability=_asked(request, found.led[index]),
                near=_asked(request, found.near[index]),
                far=_asked(request, found.far[index]),
                same_subject=_asked(request, found.subject[index]),
                tf_efficacy=efficacy,
                tf_generalization=generalization,
                tf_specificity=specificity,
                locality_kl=average(
                    [
                        result.divergence
                        for _, result in (*found.near[index], *found.far[index])
                        if result.divergence is not None
                    ]
                ),
                skipped=skipped.get(number),
                aliases=request.names(request.target),
                overwritten_by=overwritten.get(number),
            )
        )
    return records


class _Answers(NamedTuple):
    """What was found about requests, each an item.

    Attributes:
        final: Results for their own prompts.
        rephrased: Answers to their rephrases.
        led: Answers to what follows from them.
        near: Answers to what is near to them and should have stayed.
        far: Answers to what is not near and should have stayed.
        subject: Answers to other questions about their subjects.
        forced: Teacher-forced efficacy, generalization and specificity.
    """

    final: list[Result]
    rephrased: Answers
    led: Answers
    near: Answers
    far: Answers
    subject: Answers
    forced: list[tuple[float, float | None, float | None]]


def _answers(exam: Exam, requests: Sequence[EditRequest], texts: Sequence[str]) -> _Answers:
    """Ask every kind of question for all requests at once."""
    compares = compares_answers(exam, requests)
    old = old_answer if compares else None
    ask = partial(per_request, exam, requests, texts)
    own = ask([[Question(r.prompt, r.target)] for r in requests], beside=old)
    final = [result for ((_, result),) in own]
    rephrased = ask(
        [[Question(p, r.target) for p in r.test_rephrases] for r in requests], beside=old
    )
    led = ask([list(r.portability) for r in requests])
    stays = partial(ask, stays=True)
    near = stays(
        [list(r.near) for r in requests], beside=right_and_new_answer if compares else None
    )
    far = stays([list(r.far) for r in requests])
    subject = stays([[Question(p) for p in r.same_subject if exam.thorough] for r in requests])
    forced = teacher_forced(compares, final, rephrased, near, far)
    return _Answers(final, rephrased, led, near, far, subject, forced)


def _asked(request: EditRequest, group: list[tuple[Asked, Result]]) -> tuple[Asked, ...]:
    """What was asked, each with the other names of its answer."""
    return tuple(replace(asked, aliases=request.names(asked.expected)) for asked, _ in group)
