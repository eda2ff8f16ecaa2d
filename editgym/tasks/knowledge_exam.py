"""Asking an edited language model: what it answers, and how probable the expected answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editgym.data.facts import Question
from editgym.metrics.knowledge import Asked
from editgym.tasks.knowledge import KnowledgeTask
from editgym.weights import EditableDecoder, TokenBatch

# What a collapsed model's numbers are held within, or stand for: they must stay numbers.
MOST_NATS = 700.0
_TEXTS = 256  # texts that go through the model at a time
_Tokens = tuple[tuple[int, ...], tuple[int, ...]]  # a prompt's and its answer's


@dataclass(frozen=True)
class Result:
    """What the edited model says to one question.

    Attributes:
        answer: Its greedy answer.
        accuracy: Share of the expected tokens, without the end token, that it predicts.
        log_probability: Mean over those tokens.
        divergence: KL(unedited ‖ edited), mean over the answer's tokens, at most 700; 0 where it
            was not asked for.
    """

    answer: str
    accuracy: float
    log_probability: float
    divergence: float = 0.0


class Exam:
    """Asks an edited model.

    Answers are greedy. Where an answer is expected, one teacher-forced pass comes first: greedy
    decoding gives that answer if and only if every token of it is the most probable one. Only the
    other questions are decoded.
    """

    def __init__(self, task: KnowledgeTask, decoder: EditableDecoder) -> None:
        self.task = task
        self.decoder = decoder

    def expecting(self, questions: Sequence[Question]) -> list[Result]:
        """Results for questions with an answer."""
        encode = self.task.language.encode
        encoded = [encode(question.prompt, question.answer or "") for question in questions]
        return self._results([(e.prompt, e.answer) for e in encoded])

    def unchanged(self, prompts: Sequence[str], asked: Sequence[str]) -> list[Result]:
        """Results for `asked`, where the unedited model's answers to `prompts` are expected."""
        prompt_ids = self.task.language.prompt_ids
        answers = self.task.original_answers(prompts)
        now, original = (
            [(prompt_ids(text), answer) for text, answer in zip(texts, answers, strict=True)]
            for texts in (asked, prompts)
        )
        return self._results(now, original)

    @torch.no_grad()
    def _results(
        self, texts: Sequence[_Tokens], original: Sequence[_Tokens] | None = None
    ) -> list[Result]:
        """Results for prompts and answers; the divergence is from the unedited model's view of
        `original`.
        """
        order = sorted(range(len(texts)), key=lambda index: sum(map(len, texts[index])))
        results: dict[int, Result] = {}
        wrong: list[int] = []
        for start in range(0, len(order), _TEXTS):
            rows = order[start : start + _TEXTS]
            batch = TokenBatch.of([texts[row] for row in rows], self.task.device)
            log_probabilities = self.decoder.logits(batch).float().log_softmax(-1)
            right = log_probabilities.argmax(-1) == batch.labels
            divergence = (
                torch.zeros(len(rows))
                if original is None
                else self._divergence(
                    TokenBatch.of([original[row] for row in rows], self.task.device),
                    log_probabilities,
                )
            )
            content = batch.content(self.task.language.end_id)
            chosen = log_probabilities.gather(-1, batch.labels[:, None])[:, 0]
            columns = (
                batch.all_of(right),
                batch.means(right.double(), content),
                batch.means(chosen.double(), content),
                divergence,
            )
            for row, whole, *numbers in zip(
                rows, *(column.tolist() for column in columns), strict=True
            ):
                results[row] = Result(self.task.language.text(texts[row][1]), *numbers)
                if not whole:
                    wrong.append(row)
        for row, answer in zip(wrong, self._decoded([texts[row] for row in wrong]), strict=True):
            found = results[row]
            results[row] = Result(answer, found.accuracy, found.log_probability, found.divergence)
        return [results[row] for row in range(len(texts))]

    def _decoded(self, texts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[str]:
        """Greedy answers, as far as the wanted ones reach, but at least as far as all are
        decoded.
        """
        language = self.task.language
        lengths = [max(self.task.max_new_tokens, len(wanted)) for _, wanted in texts]
        with self.decoder.active():
            return [
                language.text(ids)
                for ids in language.greedy([prompt for prompt, _ in texts], lengths)
            ]

    def _divergence(self, batch: TokenBatch, now: Tensor) -> Tensor:
        reference = self.task.reference(batch)
        found = batch.means((reference.exp() * (reference - now)).sum(-1))
        return found.nan_to_num(nan=MOST_NATS).clamp(max=MOST_NATS)


Answers = list[list[tuple[Asked, Result]]]  # per request, its questions and results


def per_request(
    exam: Exam, texts: Sequence[str], questions: Sequence[Sequence[Question]], stays: bool = False
) -> Answers:
    """Ask every request's questions, after the text that is put before its prompts."""
    flat = [
        (text, question) for text, own in zip(texts, questions, strict=True) for question in own
    ]
    if stays:
        results = exam.unchanged([q.prompt for _, q in flat], [text + q.prompt for text, q in flat])
        before = [
            exam.task.language.text(ids)
            for ids in exam.task.original_answers([q.prompt for _, q in flat])
        ]
    else:
        results = exam.expecting([Question(text + q.prompt, q.answer) for text, q in flat])
        before = [None] * len(flat)  # type: ignore[list-item]
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
