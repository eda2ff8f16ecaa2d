"""What was asked about one edit of a fact, and answered: the line of an edit in a row's side file.

θ_0 is the unedited model, θ_i the model right after the step of edit i, θ_T the final one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One question put to the model before and after the stream of edits.

    Attributes:
        prompt: The question.
        expected: The right answer, where there is one.
        before: Greedy answer of θ_0; None where it was not asked.
        after: Greedy answer of θ_T; None where it was not asked.
        aliases: Other names of the right answer, each as good.
    """

    prompt: str
    expected: str | None
    before: str | None
    after: str | None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class EditRecord:
    """One edit and all that was asked about it; `to_json` is its line in the side file of a
    leaderboard's row.

    Attributes:
        edit: Position in the stream, from 0.
        step: The step that made the edit, from 0; edits of one step are made together.
        subject: What the fact is about.
        prompt: The edited prompt x.
        target: The new answer y.
        answer_now: Greedy answer to x of θ_i, right after the edit's step; None where it was not
            asked then.
        answer: Greedy answer to x of θ_T.
        rephrases: Other wordings of x, with y expected.
        portability: What follows from the new fact.
        near: Questions whose answers should stay: the same relation or the same subject.
        far: Questions whose answers should stay: unrelated.
        same_subject: Other relations of the subject, where y should not turn up.
        tf_efficacy: Teacher-forced token accuracy on x and y, 0–1.
        tf_generalization: The same on rephrases; None where there is none.
        tf_specificity: The same on near and far, against θ_0's own answers; None where there is
            none.
        locality_kl: Mean token KL(p_θ0 ‖ p_θT) on near and far, nats; None where there is none.
        skipped: Why the editor did not make the edit; None if it did.
        aliases: Other names of y, each as good.
        overwritten_by: The later edit of the stream that gave the same prompt another answer, so
            that y is not wanted at its end; None where there is none.
    """

    edit: int
    step: int
    subject: str
    prompt: str
    target: str
    answer_now: str | None
    answer: str
    rephrases: tuple[Asked, ...]
    portability: tuple[Asked, ...]
    near: tuple[Asked, ...]
    far: tuple[Asked, ...]
    same_subject: tuple[Asked, ...]
    tf_efficacy: float
    tf_generalization: float | None
    tf_specificity: float | None
    locality_kl: float | None
    skipped: str | None = None
    aliases: tuple[str, ...] = ()
    overwritten_by: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, its questions as nested objects."""
        return asdict(self)
