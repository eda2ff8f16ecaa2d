"""What the unedited model knows and nobody edits: facts of the files that it answers rightly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from editgym.data.facts import EditRequest, Question
from editgym.models.identity import identity
from editgym.paths import cache_folder, whole_file
from editgym.tasks.knowledge.task import KnowledgeTask

MOST, LEAST = 200, 20
_KEPT = 400  # facts found for one model, so that enough remain whatever a stream asks
_ASKED_AT_ONCE = 100
_MOST_ASKED = 1_000


def known_facts(task: KnowledgeTask, requests: Sequence[EditRequest]) -> list[Question]:
    """Up to 200 facts that the unedited model answers rightly and no request of a stream asks; none
    where there are fewer than 20.

    They are looked for when they are first asked for, and kept on disk by model, facts and way of
    asking.

    Args:
        task: The model and how it is asked.
        requests: The stream.
    """
    asked = {
        text
        for request in requests
        for text in (request.prompt, *request.rephrases, *request.test_rephrases)
    }
    subjects = {request.subject for request in requests}
    free = [
        fact
        for fact in _found(task)
        if fact.prompt not in asked and not any(subject in fact.prompt for subject in subjects)
    ]
    return free[:MOST] if len(free) >= LEAST else []


def _found(task: KnowledgeTask) -> list[Question]:
    """Facts that the model knows, in the order of `task.facts`."""
    facts = list(task.facts())
    path = _path(task, facts)
    with suppress(OSError, ValueError, TypeError):  # there is none, or it is damaged
        return [Question(*pair) for pair in json.loads(path.read_text(encoding="utf-8"))]
    found: list[Question] = []
    facts = facts[:_MOST_ASKED]
    with tqdm(total=_KEPT, desc="facts that the model knows", leave=False) as bar:
        for start in range(0, len(facts), _ASKED_AT_ONCE):
            some = facts[start : start + _ASKED_AT_ONCE]
            answers = task.original_texts_beside([(one.prompt, one.answer or "") for one in some])
            right = [
                fact
                for fact, answer in zip(some, answers, strict=True)
                if task.scorer.gives(answer, fact.answer or "")
            ]
            found += right
            bar.update(min(len(right), _KEPT - bar.n))
            if len(found) >= _KEPT:
                break
    with suppress(OSError), whole_file(path) as partial:  # it is only faster with it
        partial.write_text(json.dumps(found[:_KEPT]), encoding="utf-8")
    return found[:_KEPT]


def _path(task: KnowledgeTask, facts: Sequence[Question]) -> Path:
    interview = task.interview
    key = [
        identity(task.language),
        interview.prompt_format,
        interview.separator,
        interview.system,
        [task.max_new_tokens, "or as long as what it is compared with"],
        task.scorer.name,
        facts,
    ]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    return cache_folder() / "known" / f"{name}.json"
