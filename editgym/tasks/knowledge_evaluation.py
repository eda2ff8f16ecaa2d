"""Metrics of a stream of edits of a language model: the journal is replayed step by step, then
everything is asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from editgym.data.facts import EditRequest, Question
from editgym.metrics.evaluation import Evaluation
from editgym.metrics.knowledge import format_metrics, knowledge_metrics, retention_curve
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.general import general_knowledge, perplexity_ratio
from editgym.tasks.knowledge.records import edit_records
from editgym.tasks.knowledge.stream import Stream
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import (
    Codebook,
    EditJournal,
    Entry,
    JournalError,
    LowRankFactors,
    Prepend,
    ReplaceTensors,
    SiteEdit,
    Skip,
)
from editgym.weights.journal.journal import require_journal


def evaluate_stream(
    task: KnowledgeTask,
    journal: EditJournal,
    requests: Sequence[EditRequest],
    edits_per_step: int,
    rehearse: int = 0,
    first_k: int = 100,
    thorough: bool = True,
) -> Evaluation:
    """The leaderboard's metrics, the retention curve and the per-edit records of a journal.

    Args:
        task: The model that was edited.
        journal: Entry steps are the stream's steps, from 0.
        requests: The stream.
        edits_per_step: Requests in a step.
        rehearse: Earlier requests that a step teaches again.
        first_k: Edits of `first_k_reliability`.
        thorough: Whether to measure also what takes passes of its own: `perplexity_ratio`,
            `capability`, `known_kept` and `locality_kl`, which are None otherwise, and `tf_…` by
            comparison with the old answers, which are shares of tokens otherwise.

    Raises:
        TypeError: It is no journal.
        JournalError: The journal belongs to another model, or has more steps than the stream.
    """
    require_journal(journal)
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
    exam = Exam(task, decoder, thorough)
    others = [
        (name, Exam(task.asked(task.interview.in_format(form)), decoder, thorough))
        for name, form in task.interview.evaluate_formats
    ]
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
    every = range(len(requests))
    overwritten = Stream(tuple(requests)).overwritten
    records = edit_records(exam, requests, texts, every, now, skipped, edits_per_step, overwritten)
    scorer = task.scorer
    capability, known_kept = general_knowledge(exam, requests) if thorough else (None, None)
    metrics = knowledge_metrics(
        records,
        perplexity_ratio=perplexity_ratio(task, decoder) if thorough else None,
        capability=capability,
        known_kept=known_kept,
        sites_per_edit=sum(_touched(by_step[index]) for index in range(len(steps))) / len(steps),
        texts_per_edit=_texts_per_edit(by_step, steps, rehearse),
        first_k=first_k,
        scorer=scorer,
    )
    lines = [record.to_json() for record in records]
    for name, other in others:
        count = min(task.interview.format_edits, len(requests))
        chosen = [number * len(requests) // count for number in range(count)]
        again = edit_records(
            other,
            [_what_formats_ask(requests[number]) for number in chosen],
            [texts[number] for number in chosen],
            chosen,
            [None] * count,
            skipped,
            edits_per_step,
            overwritten,
        )
        metrics |= format_metrics(again, name, scorer)
        lines += [{"format": name, **record.to_json()} for record in again]
    if decoder.remembered:
        metrics["facts_left_out"] = float(sum(one.left_out for _, one in [("", exam), *others]))
    return Evaluation(metrics, {"retention": retention_curve(records, scorer=scorer)}, lines)


def _texts_per_edit(
    by_step: Mapping[int, Sequence[Entry]], steps: Sequence[Sequence[EditRequest]], rehearse: int
) -> float:
    """How many requests a step was taught with, rehearsed ones among them, for each that it edits:
    the mean over the stream's requests.

    A step that changes no weight rehearses nothing. How often an editor looks at a text is not
    counted.
    """
    before, texts = 0, 0
    for index, batch in enumerate(steps):
        edited = any(isinstance(entry, SiteEdit | ReplaceTensors) for entry in by_step[index])
        texts += len(batch) + (min(rehearse, before) if edited else 0)
        before += len(batch)
    return texts / before


def _what_formats_ask(request: EditRequest) -> EditRequest:
    """A request with what is asked in further formats: its prompt, its rephrases, what should
    stay.
    """
    return replace(request, portability=(), same_subject=(), truth=None)


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
