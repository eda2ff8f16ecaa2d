"""Metrics of a stream of edits of a language model: the journal is replayed step by step, then
everything is asked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from editgym.data.facts import EditRequest, Question
from editgym.metrics.evaluation import Evaluation
from editgym.metrics.knowledge import (
    Asked,
    EditRecord,
    knowledge_metrics,
    normalized,
    retention_curve,
)
from editgym.tasks.knowledge import KnowledgeTask
from editgym.tasks.knowledge_exam import MOST_NATS, Exam, Result, average, per_request
from editgym.tasks.knowledge_forced import teacher_forced
from editgym.weights import (
    Codebook,
    EditableDecoder,
    EditJournal,
    Entry,
    JournalError,
    LowRankFactors,
    Prepend,
    SiteEdit,
    Skip,
)


def evaluate_stream(
    task: KnowledgeTask,
    journal: EditJournal,
    requests: Sequence[EditRequest],
    edits_per_step: int,
    first_k: int = 100,
) -> Evaluation:
    """The leaderboard's metrics, the retention curve and the per-edit records of a journal.

    Args:
        task: The model that was edited.
        journal: Entry steps are the stream's steps, from 0.
        requests: The stream.
        edits_per_step: Requests in a step.
        first_k: Edits of `first_k_reliability`.

    Raises:
        JournalError: The journal belongs to another model, or has more steps than the stream.
    """
    steps = [
        requests[start : start + edits_per_step]
        for start in range(0, len(requests), edits_per_step)
    ]
    by_step: dict[int, list[Entry]] = defaultdict(list)
    for entry in journal:
        by_step[entry.step or 0].append(entry)
    decoder = task.decoder.fresh()
    if journal.base_hash != decoder.base_hash:
        raise JournalError(
            f"the journal belongs to the network {journal.base_hash[:12]}…, the task's model is "
            f"{decoder.base_hash[:12]}…: use the same model and dtype"
        )
    if by_step and max(by_step) >= len(steps):
        raise JournalError(
            f"the journal has a step {max(by_step)}, but the stream ends after {len(steps)} steps"
        )
    exam = Exam(task, decoder)
    texts: list[str] = []
    now: list[str] = []
    skipped: dict[int, str] = {}
    for index, batch in enumerate(steps):
        decoder.apply(*by_step[index])
        texts += _prepended(by_step[index], len(batch))
        for place, reason in _skipped(by_step[index], len(batch)).items():
            skipped[index * edits_per_step + place] = reason
        asked = [
            Question(text + request.prompt, request.target)
            for text, request in zip(texts[-len(batch) :], batch, strict=True)
        ]
        now += [result.answer for result in exam.expecting(asked)]
    records = _records(exam, requests, texts, now, skipped, edits_per_step)
    metrics = knowledge_metrics(
        records,
        perplexity_ratio=_perplexity_ratio(task, decoder),
        capability=_capability(exam),
        sites_per_edit=sum(_touched(by_step[index]) for index in range(len(steps))) / len(steps),
        first_k=first_k,
    )
    return Evaluation(
        metrics, {"retention": retention_curve(records)}, [record.to_json() for record in records]
    )


def _records(
    exam: Exam,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    now: Sequence[str],
    skipped: Mapping[int, str],
    edits_per_step: int,
) -> list[EditRecord]:
    """One record per request; every kind of question is asked for all requests at once."""
    final = exam.expecting(
        [Question(text + r.prompt, r.target) for text, r in zip(texts, requests, strict=True)]
    )
    rephrased = per_request(
        exam, texts, [[Question(p, r.target) for p in r.test_rephrases] for r in requests]
    )
    led = per_request(exam, texts, [list(r.portability) for r in requests])
    near = per_request(exam, texts, [list(r.near) for r in requests], stays=True)
    far = per_request(exam, texts, [list(r.far) for r in requests], stays=True)
    subject = per_request(
        exam, texts, [[Question(p) for p in r.same_subject] for r in requests], stays=True
    )
    forced = teacher_forced(exam, requests, texts, final, rephrased, near, far)
    records = []
    for index, request in enumerate(requests):
        efficacy, generalization, specificity = forced[index]
        records.append(
            EditRecord(
                edit=index,
                step=index // edits_per_step,
                subject=request.subject,
                prompt=request.prompt,
                target=request.target,
                answer_now=now[index],
                answer=final[index].answer,
                rephrases=_asked(rephrased[index]),
                portability=_asked(led[index]),
                near=_asked(near[index]),
                far=_asked(far[index]),
                same_subject=_asked(subject[index]),
                tf_efficacy=efficacy,
                tf_generalization=generalization,
                tf_specificity=specificity,
                locality_kl=average(
                    [result.divergence for _, result in (*near[index], *far[index])]
                ),
                skipped=skipped.get(index),
            )
        )
    return records


def _asked(group: list[tuple[Asked, Result]]) -> tuple[Asked, ...]:
    return tuple(asked for asked, _ in group)


def _prepended(entries: Sequence[Entry], count: int) -> list[str]:
    """What stands before every prompt of a step's requests."""
    texts = [""] * count
    for entry in entries:
        if isinstance(entry, Prepend):
            if len(entry.texts) != count:
                raise JournalError(
                    f"step {entry.step} prepends {len(entry.texts)} texts to {count} requests"
                )
            texts = [f"{text} " if text else "" for text in entry.texts]
    return texts


def _skipped(entries: Sequence[Entry], count: int) -> dict[int, str]:
    """Why requests of a step were left out, by their place in it."""
    skips = {entry.request: entry.reason for entry in entries if isinstance(entry, Skip)}
    if skips and max(skips) >= count:
        raise JournalError(
            f"step {entries[0].step} skips its request {max(skips)}, and has {count} from 0 on"
        )
    return skips


def _touched(entries: Sequence[Entry]) -> int:
    """Number of sites that a step's entries change."""
    return len(
        {
            entry.site
            for entry in entries
            if isinstance(entry, SiteEdit | Codebook) and _changes(entry)
        }
    )


def _changes(entry: SiteEdit | Codebook) -> bool:
    if isinstance(entry, Codebook):
        return len(entry.keys) > 0
    update = entry.update
    return (
        bool(update.a.any() and update.b.any())
        if isinstance(update, LowRankFactors)
        else bool(update.d.any())
    )


def _perplexity_ratio(task: KnowledgeTask, decoder: EditableDecoder) -> float:
    """Perplexity of the edited model on the fixed text over the unedited one's."""
    text = task.filler_batch(len(task.filler))
    with torch.no_grad():
        now, before = (
            F.cross_entropy(one.logits(text).float(), text.labels)
            for one in (decoder, task.decoder)
        )
    nats = float(now - before)
    return math.exp(min(nats, MOST_NATS) if math.isfinite(nats) else MOST_NATS)


def _capability(exam: Exam) -> float | None:
    """(accuracy − chance) / (accuracy of the unedited model − chance) on the task's known
    questions.
    """
    task = exam.task
    if task.known is None:
        return None
    questions, chance = task.known
    original = [
        task.language.text(ids) for ids in task.original_answers([q.prompt for q in questions])
    ]
    before = _accuracy(original, questions)
    now = _accuracy([result.answer for result in exam.expecting(questions)], questions)
    return None if before <= chance else (now - chance) / (before - chance)


def _accuracy(answers: Sequence[str], questions: Sequence[Question]) -> float:
    right = [
        normalized(answer) == normalized(question.answer or "")
        for answer, question in zip(answers, questions, strict=True)
    ]
    return sum(right) / len(right)
