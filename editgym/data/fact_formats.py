"""How files of edit requests name their fields: a format is a row of `FORMATS`, and reading one
needs no code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

MISSING: Final = object()


class Questions(NamedTuple):
    """Where the questions of one kind stand in a record.

    A question is an object with a prompt and perhaps an answer, or a string that is the prompt. An
    object may also hold a list of prompts, with a list of as many answers or one answer for all of
    them.

    Attributes:
        at: Path of a question or of a list of them; with `.*` at its end, of an object whose values
            are such lists; empty where the prompts stand in the record itself.
        prompt: Path of the prompt inside the question.
        answer: Path of the answer inside the question.
    """

    at: str = ""
    prompt: str = "prompt"
    answer: str = "answer"


@dataclass(frozen=True)
class FactFormat:
    """Where a record keeps what an `EditRequest` needs.

    A path is a field's name; `a.b` is a field of a field (`a.0` the first of a list), `a|b` the one
    that is there.

    Attributes:
        about: The data set, for messages.
        required: Paths that every record has; they are also what a format is recognised by.
        subject: Path of the subject.
        prompt: Path of the edited prompt; `{}` in it stands for the subject.
        target: Path of the new answer.
        truth: Path of the old answer, or of a list of known ones.
        rephrases: Paths of a rephrase or of a list of them.
        test_rephrases: The same for metrics alone; elsewhere `rephrases` serve both.
        locality: Questions for rewards alone; elsewhere `near` and `far` serve both.
        near: Questions about the same relation or the same subject.
        far: Unrelated questions.
        same_subject: Questions about other relations of the subject.
        portability: Questions whose answers follow from the new fact.
        aliases: Paths of other names of the new answer, or of lists of them.
        several: Path of a list of facts that a record edits together; the other paths read it as if
            it held one.
        known_empty: Empty values are a known flaw of the published files: records without a
            subject, prompt, target or required rephrase are skipped and counted, and questions that
            need an answer and have none are dropped.
    """

    about: str
    required: tuple[str, ...]
    subject: str
    prompt: str
    target: str
    truth: str | None = None
    rephrases: tuple[str, ...] = ()
    test_rephrases: tuple[str, ...] = ()
    locality: Questions | None = None
    near: Questions | None = None
    far: Questions | None = None
    same_subject: Questions | None = None
    portability: Questions | None = None
    premises: Questions | None = None
    aliases: tuple[str, ...] = ()
    several: str | None = None
    known_empty: bool = False

    def views(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The record once per fact that it edits; no view at all where `several` is not a list."""
        if self.several is None:
            yield record
            return
        facts = record.get(self.several)
        yield from (
            {**record, self.several: fact} for fact in (facts if isinstance(facts, list) else ())
        )

    def fits(self, record: object) -> bool:
        """Whether every required path is there."""
        if not isinstance(record, Mapping):
            return False
        view = next(self.views(record), None)
        return view is not None and all(lookup(view, path) is not MISSING for path in self.required)


def lookup(record: object, path: str) -> Any:
    """The value at a path; `MISSING` where a field is not there, None where a list is too short."""
    for keys in _ways(path):
        value: Any = record
        for key in keys:
            if isinstance(value, dict | Mapping):  # looked at in this order: a dict is known sooner
                value = value.get(key, MISSING)
            elif isinstance(value, list) and key.isdecimal():
                value = value[int(key)] if int(key) < len(value) else None
            else:
                value = MISSING
        if value is not MISSING:
            return value
    return MISSING


@functools.cache
def _ways(path: str) -> tuple[tuple[str, ...], ...]:
    """The keys of each of a path's options."""
    return tuple(tuple(option.split(".")) for option in path.split("|"))


def detect(record: object) -> list[str]:
    """Names of the formats that a record fits, without those that another of them requires more
    than.
    """
    fitting = [name for name, row in FORMATS.items() if row.fits(record)]
    return [
        name
        for name in fitting
        if not any(set(FORMATS[name].required) < set(FORMATS[other].required) for other in fitting)
    ]


def describe_formats() -> str:
    """One line per format: its name, its required fields and whose it is."""
    return "\n".join(
        f"  {name}: {', '.join(row.required)} ({row.about})" for name, row in FORMATS.items()
    )


FORMATS: dict[str, FactFormat] = {
    "zsre": FactFormat(
        about="ZsRE as MEND publishes it",
        required=("subject", "src", "alt", "answers", "rephrase", "loc", "loc_ans"),
        subject="subject",
        prompt="src",
        target="alt",
        truth="answers",
        rephrases=("rephrase",),
        far=Questions(prompt="loc", answer="loc_ans"),
        known_empty=True,
    ),
    # Of CounterFact's other lists, `attribute_prompts` ask about other subjects whose answer is the
    # new target already, and `generation_prompts` ask about the edited relation: neither tells
    # leakage to the subject's other relations.
    "counterfact": FactFormat(
        about="CounterFact as ROME publishes it",
        required=(
            "requested_rewrite.subject",
            "requested_rewrite.prompt",
            "requested_rewrite.target_new.str",
            "requested_rewrite.target_true.str",
            "paraphrase_prompts",
            "neighborhood_prompts",
        ),
        subject="requested_rewrite.subject",
        prompt="requested_rewrite.prompt",
        target="requested_rewrite.target_new.str",
        truth="requested_rewrite.target_true.str",
        rephrases=("paraphrase_prompts",),
        near=Questions(prompt="neighborhood_prompts", answer="requested_rewrite.target_true.str"),
    ),
    "counterfact_flat": FactFormat(
        about="CounterFact as EasyEdit publishes it",
        required=(
            "subject",
            "prompt",
            "target_new",
            "ground_truth",
            "rephrase_prompt",
            "locality_prompt",
            "locality_ground_truth",
        ),
        subject="subject",
        prompt="prompt",
        target="target_new",
        truth="ground_truth",
        rephrases=("rephrase_prompt",),
        near=Questions(prompt="locality_prompt", answer="locality_ground_truth"),
    ),
    # KILT's records with the base model's prediction; without locality prompts, and without a
    # subject: the whole claim stands for it, so that a stream still edits none twice.
    "fever": FactFormat(
        about="FEVER as MEND publishes it",
        required=("input", "prediction", "alternatives", "filtered_rephrases"),
        subject="input",
        prompt="input",
        target="alternatives.0",
        truth="prediction",
        rephrases=("filtered_rephrases",),
        known_empty=True,
    ),
    "fever_flat": FactFormat(
        about="FEVER, flat, with an unrelated claim",
        required=("prompt", "equiv_prompt", "alt", "unrel_prompt", "unrel_ans"),
        subject="prompt",
        prompt="prompt",
        target="alt",
        rephrases=("equiv_prompt",),
        far=Questions(prompt="unrel_prompt", answer="unrel_ans"),
    ),
    "knowedit": FactFormat(
        about="KnowEdit: ZsRE, Wiki recent, Wiki counterfact, WikiBio",
        required=("subject|concept", "prompt|text", "target_new|labels", "locality"),
        subject="subject|concept",
        prompt="prompt|text",
        target="target_new|labels",
        truth="ground_truth",
        rephrases=("rephrase_prompt",),
        near=Questions("locality.*", answer="ground_truth"),
        same_subject=Questions("locality.Relation_Specificity", answer="ground_truth"),
        portability=Questions("portability.*", answer="ground_truth"),
        known_empty=True,
    ),
    "qaedit": FactFormat(
        about="QAEdit",
        required=("subject", "prompt", "target", "rephrase", "locality"),
        subject="subject",
        prompt="prompt",
        target="target",
        rephrases=("rephrase",),
        far=Questions("locality", "loc", "loc_ans"),
    ),
    "wikibigedit": FactFormat(
        about="WikiBigEdit",
        required=("subject", "update", "ans", "rephrase", "loc", "loc_ans"),
        subject="subject",
        prompt="update",
        target="ans",
        rephrases=("rephrase", "personas"),
        far=Questions(prompt="loc", answer="loc_ans"),
        portability=Questions(prompt="mhop", answer="mhop_ans"),
        known_empty=True,
    ),
    "mquake": FactFormat(
        about="MQuAKE-CF and MQuAKE-T",
        required=(
            "requested_rewrite.subject",
            "requested_rewrite.prompt",
            "requested_rewrite.target_new.str",
            "questions",
            "new_answer",
        ),
        subject="requested_rewrite.subject",
        prompt="requested_rewrite.prompt",
        target="requested_rewrite.target_new.str",
        truth="requested_rewrite.target_true.str",
        rephrases=("requested_rewrite.question",),
        portability=Questions(prompt="questions", answer="new_answer"),
        several="requested_rewrite",
    ),
    "own": FactFormat(
        about="one's own file, further fields as in EditRequest",
        required=("subject", "prompt", "target"),
        subject="subject",
        prompt="prompt",
        target="target",
        truth="truth",
        rephrases=("rephrases",),
        test_rephrases=("test_rephrases",),
        locality=Questions("locality"),
        near=Questions("near"),
        far=Questions("far"),
        same_subject=Questions("same_subject"),
        portability=Questions("portability"),
        premises=Questions("premises"),
        aliases=("aliases",),
    ),
}
