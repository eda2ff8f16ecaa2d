"""Asking an edited language model: what it answers, and how probable the expected answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from editgym.data.facts import EditRequest, Question
from editgym.metrics.knowledge import Asked
from editgym.models.asking import Encoded
from editgym.tasks.knowledge.answering import Answering
from editgym.tasks.knowledge.asked_model import Solved
from editgym.tasks.knowledge.expected import Expected, Result, Tokens
from editgym.tasks.knowledge.memory import Memory
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder
from editgym.weights.state import Remembered

Texts = Sequence[Sequence[str]]  # of every question


class Exam:
    """Asks an edited model.

    Answers are greedy (`Answering`). Where the decoder remembers facts, every question is asked
    after the one that is near (`Memory`), if the context has room for it.

    Args:
        task: The model and how it is asked.
        decoder: The model with its edits.
        thorough: Whether divergences from the unedited model are computed, answers are decoded to
            their ends, requests are asked right after their edits too, and other answers'
            probabilities are compared. Otherwise an answer ends as soon as the task's scorer knows
            whether it is the wanted one.

    Attributes:
        left_out: How many questions were asked without the fact that is near, for want of room.
    """

    def __init__(
        self, task: KnowledgeTask, decoder: EditableDecoder, thorough: bool = True
    ) -> None:
        self.task = task
        self.decoder = decoder
        self.thorough = thorough
        self._answering = Answering(task, decoder, to_the_end=thorough)
        self._remembered: Mapping[str, Remembered] = {}
        self._memory: Memory | None = None
        self.left_out = 0

    def expecting(
        self, questions: Sequence[Question], names: Texts = (), beside: Texts = ()
    ) -> list[Result]:
        """Results for questions with an answer.

        Args:
            questions: The questions.
            names: Other names of each answer.
            beside: Other answers of each, whose probabilities are asked for.
        """
        encode, expected = self.task.encode, [question.answer or "" for question in questions]
        names, beside = (own or [()] * len(expected) for own in (names, beside))

        def encoded(index: int, fact: Solved) -> list[Encoded]:
            answers = (expected[index], *beside[index])
            return [encode(questions[index].prompt, one, solved=fact) for one in answers]

        asked = self._asked([question.prompt for question in questions], encoded)
        return self._answering.results(
            [
                Expected(
                    prompt,
                    answer,
                    said=right,
                    right=right,
                    wanted=[(one, one) for one in (right, *own)],
                    beside=others,
                )
                for (prompt, answer, *others), right, own in zip(
                    asked, expected, names, strict=True
                )
            ]
        )

    def unchanged(
        self,
        prompts: Sequence[str],
        asked: Sequence[str],
        right: Sequence[str | None] = (),
        beside: Texts = (),
    ) -> list[Result]:
        """Results for `asked`, where the unedited model's answers to `prompts` are expected.

        Args:
            prompts: What the unedited model is asked.
            asked: What the edited one is asked.
            right: The right answers, where they are known.
            beside: Other answers of each, whose probabilities are asked for.
        """
        encode, prompt_ids = self.task.encode, self.task.prompt_ids
        answers = self.task.original_answers(prompts)
        right, beside = right or [None] * len(asked), beside or [()] * len(asked)

        def encoded(index: int, fact: Solved) -> list[Encoded]:
            own = Encoded(prompt_ids(asked[index], fact), answers[index])
            return [own, *(encode(asked[index], one, solved=fact) for one in beside[index])]

        texts = []
        cut, text = self.task.scorer.cut, self.task.asking.text
        for index, (prompt, answer, *others) in enumerate(self._asked(asked, encoded)):
            said, kept = text(answers[index]), right[index] or ""
            texts.append(
                Expected(
                    prompt,
                    answer,
                    said=said,
                    right="",
                    wanted=[(cut(said, kept), kept)],
                    original=prompt_ids(prompts[index]) if self.thorough else None,
                    beside=others,
                )
            )
        return self._answering.results(texts)

    @torch.no_grad()
    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Greedy answers to questions whose answers nobody knows, cut where they end.

        Raises:
            ValueError: A prompt is longer than the model's context.
        """
        asked = self._asked(
            prompts, lambda index, fact: [Encoded(self.task.prompt_ids(prompts[index], fact), ())]
        )
        context = self.task.language.context
        for prompt, (ids, _) in zip(prompts, asked, strict=True):
            if len(ids) >= context:
                raise ValueError(
                    f"prompts: one is {len(ids)} tokens long, and the model takes {context},"
                    f" answer and all: {prompt[:60]!r}…"
                )
        return self._answering.decoded([Expected(ids, (), "", "", ()) for ids, _ in asked])

    def _asked(
        self, prompts: Sequence[str], encode: Callable[[int, Solved], list[Encoded]]
    ) -> list[list[Tokens]]:
        """Tokens of every question and of its answers, each question after the fact that is near.

        Args:
            prompts: The questions.
            encode: Encodes one of them with its answers, by its place, after a fact or after none.
        """
        found = []
        for index, fact in enumerate(self._facts(prompts)):
            asked = encode(index, fact)
            if fact and not all(map(self.task.has_room, asked)):
                self.left_out += 1
                asked = encode(index, ())
            found.append([asked[0].prompt, *(one.answer for one in asked)])
        return found

    def _facts(self, prompts: Sequence[str]) -> Sequence[Solved]:
        """The remembered facts that questions are asked after, as many as one each."""
        if self.decoder.remembered is not self._remembered:
            self._remembered = self.decoder.remembered
            self._memory = Memory(self._remembered) if self._remembered else None
        return [()] * len(prompts) if self._memory is None else self._memory.solved(prompts)


Answers = list[list[tuple[Asked, Result]]]  # per request, its questions and results


def per_request(
    exam: Exam,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    questions: Sequence[Sequence[Question]],
    stays: bool = False,
    beside: Callable[[EditRequest, Question], Sequence[str]] | None = None,
) -> Answers:
    """Ask every request's questions, after the text that is put before its prompts.

    Args:
        exam: Asks them.
        requests: The requests.
        texts: What stands before the prompts of each.
        questions: The questions of each.
        stays: Whether the unedited model's answers are expected.
        beside: Other answers to a request's question, whose probabilities are asked for.
    """
    others = [
        () if beside is None else beside(request, question)
        for request, own in zip(requests, questions, strict=True)
        for question in own
    ]
    flat = [
        (text, question) for text, own in zip(texts, questions, strict=True) for question in own
    ]
    if stays:
        results = exam.unchanged(
            [q.prompt for _, q in flat],
            [text + q.prompt for text, q in flat],
            [q.answer for _, q in flat],
            others,
        )
        before: Sequence[str | None] = exam.task.original_texts([q.prompt for _, q in flat])
    else:
        results = exam.expecting(
            [Question(text + q.prompt, q.answer) for text, q in flat],
            [r.names(q.answer) for r, own in zip(requests, questions, strict=True) for q in own],
            others,
        )
        before = [None] * len(flat)
    asked = iter(
        [
            (Asked(q.prompt, q.answer, old, result.answer), result)
            for (_, q), old, result in zip(flat, before, results, strict=True)
        ]
    )
    return [[next(asked) for _ in own] for own in questions]


def average(values: Sequence[float]) -> float | None:
    """The mean; None of no values."""
    return sum(values) / len(values) if values else None
