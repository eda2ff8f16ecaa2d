"""Asking an edited language model: what it answers, and how probable the expected answers are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from editgym.data.facts import EditRequest, Question
from editgym.metrics.answers import Scorer
from editgym.metrics.knowledge import Asked
from editgym.models.asking import Encoded
from editgym.tasks.knowledge.asked_model import Solved
from editgym.tasks.knowledge.memory import Memory
from editgym.tasks.knowledge.task import KnowledgeTask
from editgym.weights import EditableDecoder, TokenBatch
from editgym.weights.state import Remembered

# What a collapsed model's numbers are held within, or stand for: they must stay numbers.
MOST_NATS = 700.0
_TEXTS = 256  # texts that go through the model at a time
_Wanted = tuple[str, str]  # an answer, and the text inside whose length none is cut
_Tokens = tuple[tuple[int, ...], tuple[int, ...]]  # a prompt's and its answer's


@dataclass(frozen=True)
class Result:
    """What the edited model says to one question.

    Attributes:
        answer: Its greedy answer.
        accuracy: Share of the expected tokens, without the end token, that it predicts.
        log_probability: Mean over those tokens.
        divergence: KL(unedited ‖ edited), mean over the answer's tokens, at most 700; None where it
            was not asked for.
    """

    answer: str
    accuracy: float
    log_probability: float
    divergence: float | None = None


class Exam:
    """Asks an edited model.

    Answers are greedy. Where an answer is expected, one teacher-forced pass comes first: where
    every token of it is the most probable one and the next one ends it, greedy decoding gives that
    answer, whatever the tokenizer makes of its tokens. Only the other questions are decoded. Where
    the decoder remembers facts, every question is asked after the one that is near (`Memory`), if
    the context has room for it.

    Args:
        task: The model and how it is asked.
        decoder: The model with its edits.
        thorough: Whether divergences from the unedited model are computed, answers are decoded to
            their ends, requests are asked right after their edits too, and `tf_…` metrics may take
            passes of their own. Otherwise an answer ends as soon as the task's scorer knows whether
            it is the wanted one.
        forced_only: Nothing is decoded: an answer that is not the expected one is empty.

    Attributes:
        left_out: How many questions were asked without the fact that is near, for want of room.
    """

    def __init__(
        self,
        task: KnowledgeTask,
        decoder: EditableDecoder,
        thorough: bool = True,
        forced_only: bool = False,
    ) -> None:
        self.task = task
        self.decoder = decoder
        self.thorough = thorough
        self._forced_only = forced_only
        self._remembered: Mapping[str, Remembered] = {}
        self._memory: Memory | None = None
        self.left_out = 0

    def expecting(
        self, questions: Sequence[Question], names: Sequence[Sequence[str]] | None = None
    ) -> list[Result]:
        """Results for questions with an answer; `names` are other names of each answer."""
        expected = [question.answer or "" for question in questions]
        prompts = [question.prompt for question in questions]
        asked = self._asked(
            prompts,
            lambda index, fact: self.task.encode(prompts[index], expected[index], solved=fact),
        )
        wanted = [
            [(one, one) for one in (answer, *own)]
            for answer, own in zip(expected, names or [()] * len(expected), strict=True)
        ]
        return self._results(asked, expected, expected, wanted)

    def unchanged(
        self,
        prompts: Sequence[str],
        asked: Sequence[str],
        right: Sequence[str | None] | None = None,
    ) -> list[Result]:
        """Results for `asked`, where the unedited model's answers to `prompts` are expected;
        `right` are the right ones, where they are known.
        """
        prompt_ids = self.task.prompt_ids
        answers = self.task.original_answers(prompts)
        original = [(prompt_ids(text), own) for text, own in zip(prompts, answers, strict=True)]
        now = self._asked(
            asked, lambda index, fact: Encoded(prompt_ids(asked[index], fact), answers[index])
        )
        said = [self.task.asking.text(answer) for answer in answers]
        cut = self.task.scorer.cut
        wanted = [
            [(cut(text, kept or ""), kept or "")]
            for text, kept in zip(said, right or [None] * len(said), strict=True)
        ]
        return self._results(
            now, said, [""] * len(now), wanted, original if self.thorough else None
        )

    @torch.no_grad()
    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Greedy answers to questions whose answers nobody knows, cut where they end.

        Raises:
            ValueError: A prompt is longer than the model's context.
        """
        asked = self._asked(
            prompts, lambda index, fact: Encoded(self.task.prompt_ids(prompts[index], fact), ())
        )
        context = self.task.language.context
        for prompt, (ids, _) in zip(prompts, asked, strict=True):
            if len(ids) >= context:
                raise ValueError(
                    f"prompts: one is {len(ids)} tokens long, and the model takes {context},"
                    f" answer and all: {prompt[:60]!r}…"
                )
        return self._decoded(asked, [""] * len(asked), None)

    def _asked(
        self, prompts: Sequence[str], encode: Callable[[int, Solved], Encoded]
    ) -> list[_Tokens]:
        """Tokens of questions and answers, each question after the fact that is near.

        Args:
            prompts: The questions.
            encode: Encodes one of them, by its place, after a fact or after none.
        """
        found = []
        for index, fact in enumerate(self._facts(prompts)):
            asked = encode(index, fact)
            if fact and not self.task.has_room(asked):
                self.left_out += 1
                asked = encode(index, ())
            found.append((asked.prompt, asked.answer))
        return found

    def _facts(self, prompts: Sequence[str]) -> Sequence[Solved]:
        """The remembered facts that questions are asked after, as many as one each."""
        if self.decoder.remembered is not self._remembered:
            self._remembered = self.decoder.remembered
            self._memory = Memory(self._remembered) if self._remembered else None
        return [()] * len(prompts) if self._memory is None else self._memory.solved(prompts)

    @torch.no_grad()
    def _results(
        self,
        texts: Sequence[_Tokens],
        said: Sequence[str],
        expected: Sequence[str],
        wanted: Sequence[Sequence[_Wanted]],
        original: Sequence[_Tokens] | None = None,
    ) -> list[Result]:
        """Results for prompts and answers.

        Args:
            texts: Tokens of prompts and answers.
            said: What the answer's tokens say.
            expected: The right answers; empty where none is known.
            wanted: What the task's scorer compares each answer with.
            original: Whose answer tokens the divergence from the unedited model is taken at.
        """
        order = sorted(range(len(texts)), key=lambda index: sum(map(len, texts[index])))
        results: dict[int, Result] = {}
        wrong: list[int] = []
        for start in range(0, len(order), _TEXTS):
            rows = order[start : start + _TEXTS]
            batch = TokenBatch.of([texts[row] for row in rows], self.task.device)
            log_probabilities = self.decoder.logits(batch).float().log_softmax(-1)
            chosen = log_probabilities.argmax(-1)
            divergence = (
                [None] * len(rows)
                if original is None
                else self._divergence(
                    TokenBatch.of([original[row] for row in rows], self.task.device),
                    log_probabilities,
                ).tolist()
            )
            content = self.task.content(batch)
            logs = log_probabilities.gather(-1, batch.labels[:, None])[:, 0]
            columns = (
                batch.all_of(self._given(batch, chosen)).tolist(),
                batch.means((chosen == batch.labels).double(), content).tolist(),
                batch.means(logs.double(), content).tolist(),
                divergence,
            )
            for row, whole, *numbers in zip(rows, *columns, strict=True):
                results[row] = Result(said[row] if whole else "", *numbers)
                if not whole:
                    wrong.append(row)
        if self._forced_only:
            return [results[row] for row in range(len(texts))]
        decoded = self._decoded(
            [texts[row] for row in wrong],
            [expected[row] for row in wrong],
            None if self.thorough else [wanted[row] for row in wrong],
        )
        for row, answer in zip(wrong, decoded, strict=True):
            results[row] = replace(results[row], answer=answer)
        return [results[row] for row in range(len(texts))]

    def _given(self, batch: TokenBatch, chosen: Tensor) -> Tensor:
        """Which answer tokens are as good as predicted, (m,) bool: where an answer is expected to
        end, any token that ends it is.
        """
        stops = torch.tensor(sorted(self.task.asking.stop_ids), device=self.task.device)
        last = torch.cat([batch.rows.diff() != 0, batch.rows.new_ones(1, dtype=torch.bool)])
        ended = last & torch.isin(batch.labels, stops) & torch.isin(chosen, stops)
        return (chosen == batch.labels) | ended

    def _decoded(
        self,
        texts: Sequence[_Tokens],
        expected: Sequence[str],
        wanted: Sequence[Sequence[_Wanted]] | None,
    ) -> list[str]:
        """Greedy answers, as far as the expected ones reach, but at least as far as all are
        decoded; or as far as the scorer needs to compare them with `wanted`.
        """
        lengths = [max(self.task.max_new_tokens, len(answer)) for _, answer in texts]
        enough = None if wanted is None else partial(_settled, self.task.scorer, wanted)
        with self.decoder.active():
            return self.task.greedy([prompt for prompt, _ in texts], lengths, expected, enough)

    def _divergence(self, batch: TokenBatch, now: Tensor) -> Tensor:
        reference = self.task.reference(batch)
        found = batch.means((reference.exp() * (reference - now)).sum(-1))
        return found.nan_to_num(nan=MOST_NATS).clamp(max=MOST_NATS)


def _settled(scorer: Scorer, wanted: Sequence[Sequence[_Wanted]], row: int, begun: str) -> bool:
    """Whether the scorer knows how an answer that begins so compares with all that is wanted."""
    return all(scorer.settled(begun, answer, kept) for answer, kept in wanted[row])


Answers = list[list[tuple[Asked, Result]]]  # per request, its questions and results


def per_request(
    exam: Exam,
    requests: Sequence[EditRequest],
    texts: Sequence[str],
    questions: Sequence[Sequence[Question]],
    stays: bool = False,
) -> Answers:
    """Ask every request's questions, after the text that is put before its prompts."""
    flat = [
        (text, question) for text, own in zip(texts, questions, strict=True) for question in own
    ]
    if stays:
        results = exam.unchanged(
            [q.prompt for _, q in flat],
            [text + q.prompt for text, q in flat],
            [q.answer for _, q in flat],
        )
        before: Sequence[str | None] = exam.task.original_texts([q.prompt for _, q in flat])
    else:
        results = exam.expecting(
            [Question(text + q.prompt, q.answer) for text, q in flat],
            [r.names(q.answer) for r, own in zip(requests, questions, strict=True) for q in own],
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
