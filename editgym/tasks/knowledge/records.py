"""One record per edit: everything that is asked about it, and what the models answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from editgym.data.facts import EditRequest, Question
from editgym.metrics.knowledge import Asked, EditRecord
from editgym.tasks.knowledge.exam import Exam, average, per_request
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
    compares = compares_answers(exam, requests)
    old = old_answer if compares else None
    asked = [Question(text + r.prompt, r.target) for text, r in zip(texts, requests, strict=True)]
    final = exam.expecting(
        asked,
        [r.names(r.target) for r in requests],
        [() if old is None else old(*pair) for pair in zip(requests, asked, strict=True)],
    )
    rephrased = per_request(
        exam,
        requests,
        texts,
        [[Question(p, r.target) for p in r.test_rephrases] for r in requests],
        beside=old,
    )
    led = per_request(exam, requests, texts, [list(r.portability) for r in requests])
    near = per_request(
        exam,
        requests,
        texts,
        [list(r.near) for r in requests],
        stays=True,
        beside=right_and_new_answer if compares else None,
    )
    far = per_request(exam, requests, texts, [list(r.far) for r in requests], stays=True)
    subject = per_request(
        exam,
        requests,
        texts,
        [[Question(p) for p in r.same_subject if exam.thorough] for r in requests],
        stays=True,
    )
    forced = teacher_forced(compares, final, rephrased, near, far)
    records = []
    for index, (number, request) in enumerate(zip(numbers, requests, strict=True)):
        efficacy, generalization, specificity = forced[index]
        records.append(
            EditRecord(
                edit=number,
                step=number // edits_per_step,
                subject=request.subject,
                prompt=request.prompt,
                target=request.target,
                answer_now=now[index],
                answer=final[index].answer,
                rephrases=_asked(request, rephrased[index]),
                portability=_asked(request, led[index]),
                near=_asked(request, near[index]),
                far=_asked(request, far[index]),
                same_subject=_asked(request, subject[index]),
                tf_efficacy=efficacy,
                tf_generalization=generalization,
                tf_specificity=specificity,
                locality_kl=average(
                    [
                        result.divergence
                        for _, result in (*near[index], *far[index])
                        if result.divergence is not None
                    ]
                ),
                skipped=skipped.get(number),
                aliases=request.names(request.target),
                overwritten_by=overwritten.get(number),
            )
        )
    return records


def _asked(request: EditRequest, group: list[tuple[Asked, Result]]) -> tuple[Asked, ...]:
    """What was asked, each with the other names of its answer."""
    return tuple(replace(asked, aliases=request.names(asked.expected)) for asked, _ in group)
