"""One correction of a fact, and the questions that tell whether it was made well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Question(NamedTuple):
    """A prompt and what should follow it; None where only the model's own answer counts."""

    prompt: str
    answer: str | None = None


@dataclass(frozen=True)
class EditRequest:
    """One correction, and everything that tells whether it was made well.

    An editor may look at `subject`, `prompt` and `target`. A reward may use `rephrases` and
    `locality` as well. The rest is for metrics alone.

    Attributes:
        subject: What the fact is about; occurs in `prompt` (editors that need it skip a record
            where it does not).
        prompt: Text before the answer, as the data has it: white space at its ends belongs to it.
        target: The new answer.
        truth: The old answer, where the data set tells it.
        rephrases: Other wordings of `prompt`.
        locality: Prompts whose answers should stay as they are.
        test_rephrases: Wordings of `prompt` that `generalization` asks, unseen by rewards.
        near: Prompts whose answers should stay, for `locality_near`: about the same relation or the
            same subject.
        far: Prompts whose answers should stay, for `locality_far`: unrelated.
        same_subject: Prompts about other relations of the subject, for `leakage`.
        portability: What follows from the new fact: one hop, or by an alias of the subject.
        premises: Other facts that `portability` follows from as well: prompts and targets of edits.
            A stream that lacks one of them leaves `portability` out.
        aliases: Groups of names of one thing: where an answer is in a group, every other name of
            it is as good.
    """

    subject: str
    prompt: str
    target: str
    truth: str | None = None
    rephrases: tuple[str, ...] = ()
    locality: tuple[Question, ...] = ()
    test_rephrases: tuple[str, ...] = ()
    near: tuple[Question, ...] = ()
    far: tuple[Question, ...] = ()
    same_subject: tuple[str, ...] = ()
    portability: tuple[Question, ...] = ()
    premises: tuple[Question, ...] = ()
    aliases: tuple[tuple[str, ...], ...] = ()

    def names(self, answer: str | None) -> tuple[str, ...]:
        """Other names of an answer, each as good."""
        groups = [group for group in self.aliases if answer in group]
        return tuple(dict.fromkeys(name for group in groups for name in group if name != answer))
