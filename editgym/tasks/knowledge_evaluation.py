"""Metrics of a stream of edits of a language model: the journal is replayed step by step, then
everything is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from editgym.data.facts import EditRequest, Question
from editgym.metrics.answers import SCORERS, Scorer
from editgym.metrics.evaluation import Evaluation
from editgym.metrics.knowledge import (
    EditRecord,
    format_metrics,
    knowledge_metrics,
    retention_curve,
)
from editgym.tasks.knowledge.exam import Exam
from editgym.tasks.knowledge.general import general_knowledge, perplexity_ratio
from editgym.tasks.knowledge.records import edit_records
from editgym.tasks.knowledge.stream import Stream
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import (
    Codebook,
    EditableDecoder,
    EditJournal,
    EditSite,
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
            `capability`, `known_kept`, `locality_kl`, `reliability_now` and `forgetting`; what
            other scorers than the task's say; `leakage` and `locality_truth`. All these are None
            otherwise, `tf_…` are shares of tokens, and records have answers as far as the task's
            scorer reads them.

    Raises:
        TypeError: It is no journal.
        JournalError: The journal belongs to another model, or has more steps than the stream.
    """
    require_journal(journal)
    steps = [
        requests[start : start + edits_per_step]
        for start in range(0, len(requests), edits_per_step)
    ]
    decoder = task.decoder.fresh()
    by_step = _by_step(journal, decoder, len(steps))
    exam = Exam(task, decoder, thorough)
    others = {
        name: Exam(task.asked(task.interview.in_format(form)), decoder, thorough)
        for name, form in task.interview.evaluate_formats
    }
    replay = _replayed(exam, steps, by_step)
    overwritten = Stream(tuple(requests)).overwritten

    def asked(asker: Exam, chosen: Sequence[int], now: Sequence[str | None]) -> list[EditRecord]:
        every = asker is exam
        return edit_records(
            asker,
            [requests[at] if every else _what_formats_ask(requests[at]) for at in chosen],
            [replay.texts[at] for at in chosen],
            chosen,
            now,
            replay.skipped,
            edits_per_step,
            overwritten,
        )

    records = asked(exam, range(len(requests)), replay.now)
    capability, known_kept = general_knowledge(exam, requests) if thorough else (None, None)
    metrics = knowledge_metrics(
        records,
        perplexity_ratio=perplexity_ratio(task, decoder) if thorough else None,
        capability=capability,
        known_kept=known_kept,
        sites_per_edit=sum(_touched(made, decoder.sites) for made in by_step) / len(steps),
        texts_per_edit=_texts_per_edit(by_step, steps, rehearse, overwritten),
        first_k=first_k,
        scorer=task.scorer,
    )
    if not thorough:
        metrics |= dict.fromkeys(_unknown(metrics, task.scorer))
    lines = [record.to_json() for record in records]
    count = min(task.interview.format_edits, len(requests))
    chosen = [number * len(requests) // count for number in range(count)]
    for name, other in others.items():
        again = asked(other, chosen, [None] * count)
        metrics |= format_metrics(again, name, task.scorer)
        lines += [{"format": name, **record.to_json()} for record in again]
    if decoder.remembered:
        metrics["facts_left_out"] = float(sum(one.left_out for one in (exam, *others.values())))
    return Evaluation(metrics, {"retention": retention_curve(records, scorer=task.scorer)}, lines)


def _unknown(metrics: Iterable[str], scorer: Scorer) -> list[str]:
    """Metrics for which answers have to be decoded to their ends, or questions be asked that an
    evaluation leaves out which is not thorough.
    """
    others = tuple(f"_{name}" for name in SCORERS if name != scorer.name)
    return [
        name for name in metrics if name.endswith(others) or name in ("leakage", "locality_truth")
    ]


def _by_step(journal: EditJournal, decoder: EditableDecoder, steps: int) -> list[list[Entry]]:
    """A journal's entries by the stream's steps.

    Raises:
        JournalError: The journal belongs to another model, or has more steps than the stream.
    """
    if journal.base_hash != decoder.base_hash:
        raise JournalError(
            f"the journal belongs to the network {journal.base_hash[:12]}…, the task's model is "
            f"{decoder.base_hash[:12]}…: use the same model and dtype"
        )
    last = max((entry.step or 0 for entry in journal), default=0)
    if last >= steps:
        raise JournalError(
            f"the journal has a step {last}, but the stream ends after {steps} steps"
        )
    by_step: list[list[Entry]] = [[] for _ in range(steps)]
    for entry in journal:
        by_step[entry.step or 0].append(entry)
    return by_step


class _Replay(NamedTuple):
    """What a replay of the journal shows.

    Attributes:
        texts: What stands before each request's prompt.
        now: The answer to each request right after its step; None where nothing was asked.
        skipped: Why requests were left out, by their place in the stream.
    """

    texts: list[str]
    now: list[str | None]
    skipped: dict[int, str]


def _replayed(
    exam: Exam, steps: Sequence[Sequence[EditRequest]], by_step: Sequence[Sequence[Entry]]
) -> _Replay:
    """Apply the journal to the exam's model, step by step, and, if it is thorough, ask for each
    step's requests right after it.
    """
    replay = _Replay([], [], {})
    for batch, entries in zip(steps, by_step, strict=True):
        exam.decoder.apply(*entries)
        exam.decoder.settle()  # or a long journal's factors would be in memory twice
        before, texts = len(replay.texts), _prepended(entries, len(batch))
        for place, reason in _skipped(entries, len(batch)).items():
            replay.skipped[before + place] = reason
        replay.texts.extend(texts)
        if not exam.thorough:
            replay.now.extend([None] * len(batch))
            continue
        asked = [
            Question(text + request.prompt, request.target)
            for text, request in zip(texts, batch, strict=True)
        ]
        replay.now.extend(result.answer for result in exam.expecting(asked))
    return replay


def _texts_per_edit(
    by_step: Sequence[Sequence[Entry]],
    steps: Sequence[Sequence[EditRequest]],
    rehearse: int,
    overwritten: Mapping[int, int],
) -> float:
    """How many requests a step was taught with, rehearsed ones among them, for each that it edits:
    the mean over the stream's requests.

    A step that changes no weight rehearses nothing, and no step what was overwritten. How often an
    editor looks at a text is not counted.
    """
    before, texts = 0, 0
    for batch, entries in zip(steps, by_step, strict=True):
        edited = any(isinstance(entry, SiteEdit | ReplaceTensors) for entry in entries)
        holding = before - sum(later < before + len(batch) for later in overwritten.values())
        texts += len(batch) + (min(rehearse, holding) if edited else 0)
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


def _touched(entries: Sequence[Entry], sites: Sequence[EditSite]) -> int:
    """Number of sites that a step's entries change."""
    touched: set[str] = set()
    for entry in entries:
        if isinstance(entry, ReplaceTensors):
            touched |= {site.name for site in sites if site.parameter in entry.tensors}
        elif isinstance(entry, SiteEdit | Codebook) and _changes(entry):
            touched.add(entry.site)
    return len(touched)


def _changes(entry: SiteEdit | Codebook) -> bool:
    if isinstance(entry, Codebook):
        return len(entry.keys) > 0
    update = entry.update
    return (
        bool(update.a.any() and update.b.any())
        if isinstance(update, LowRankFactors)
        else bool(update.d.any())
    )
