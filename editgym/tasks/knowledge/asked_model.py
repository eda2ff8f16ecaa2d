"""A language model and how it is asked: questions as tokens, and the unedited model's answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from editgym.metrics.answers import SCORERS, Scorer
from editgym.models.asking import Asking, Encoded
from editgym.models.language import LanguageModel
from editgym.models.prompt_formats import prompt_format
from editgym.tasks.knowledge.interview import Interview
from editgym.tasks.knowledge.original_answers import OriginalAnswers
from editgym.weights import TokenBatch

Solved = Sequence[tuple[str, str]]  # prompts and answers that stand before a question
AS_ASKED = Interview()  # bare prompts, and the task's own scorer


class AskedModel:
    """A language model that is asked in one way.

    Args:
        language: The model.
        interview: How it is asked.
        scorer: Name of the scorer, unless the interview names one.
        max_new_tokens: Where an answer without an end is cut, unless the interview says.

    Attributes:
        asking: Prompts and answers as tokens, in the interview's format.
        scorer: What counts as an answer.

    Raises:
        PromptFormatError: The model has no chat template.
    """

    def __init__(
        self,
        language: LanguageModel,
        interview: Interview = AS_ASKED,
        scorer: str = "exact",
        max_new_tokens: int = 8,
    ) -> None:
        self.language = language
        self.device = language.device
        self._own_scorer, self._own_max_new_tokens = scorer, max_new_tokens

        self.ask_as(interview)

    def ask_as(self, interview: Interview) -> None:
        """Ask in this way from here on."""
        self.interview = interview
        form = prompt_format(interview.prompt_format)
        self.asking: Asking = self.language.asking(form, interview.separator, interview.system)
        self.scorer: Scorer = SCORERS[interview.scorer or self._own_scorer]
        way = (form, interview.separator, interview.system, self.max_new_tokens)
        # Ways that differ in other things alone share them.
        own = OriginalAnswers(self.language, self.asking, self.max_new_tokens)
        self._answers: OriginalAnswers = self.language.said.setdefault(way, own)

    @property
    def max_new_tokens(self) -> int:
        """Where an answer that does not end is cut; one that is compared with a longer text, at the
        end of that.
        """
        own = self.interview.max_new_tokens
        return self._own_max_new_tokens if own is None else own

    # --- tokens -----------------------------------------------------------------------------------

    def encode(self, prompt: str, answer: str, end: bool = True, solved: Solved = ()) -> Encoded:
        """Tokens of a prompt and its answer in the interview's format, after solved questions."""
        return self.asking.encode(prompt, answer, end, solved)

    def prompt_ids(self, prompt: str, solved: Solved = ()) -> tuple[int, ...]:
        """Tokens of a prompt in the interview's format, after solved questions, up to where its
        answer begins.
        """
        return self.asking.prompt_ids(prompt, solved)

    def has_room(self, asked: Encoded) -> bool:
        """Whether a prompt and its answer are within the model's context, as far as answers are
        decoded.
        """
        answer = max(len(asked.answer), self.max_new_tokens)
        return len(asked.prompt) + answer <= self.language.context

    def batch(self, questions: Sequence[tuple[str, str]]) -> TokenBatch:
        """Prompts and their answers as tokens, each answer with its ending, which weighs
        `end_weight`.
        """
        encoded = [self.encode(prompt, answer) for prompt, answer in questions]
        texts = [(e.prompt, e.answer) for e in encoded]
        weight = self.interview.end_weight
        if weight == 1:
            return TokenBatch.of(texts, self.device)
        endings = len(self.asking.ending)
        weights = [[1.0] * (len(answer) - endings) + [weight] * endings for _, answer in texts]
        return TokenBatch.of(texts, self.device, weights)

    def unchanged(self, prompts: Sequence[str]) -> TokenBatch:
        """Prompts and the unedited model's own greedy answers, as tokens."""
        answers = self.original_answers(prompts)
        return TokenBatch.of(
            [
                (self.prompt_ids(prompt), answer)
                for prompt, answer in zip(prompts, answers, strict=True)
            ],
            self.device,
        )

    def content(self, batch: TokenBatch) -> Tensor:
        """Which answer tokens of a batch say something, (m,) bool: all but the ending."""
        return batch.content(self.asking.ending)

    # --- answers ----------------------------------------------------------------------------------

    def original_answers(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """Greedy answers of the unedited model, as tokens with the stop token; each prompt is
        decoded once.
        """
        new = self._answers.unknown(prompts)
        decoded = self.language.greedy(
            [self.prompt_ids(prompt) for prompt in new],
            self.max_new_tokens,
            stops=self.asking.stop_ids,
        )
        self._answers.keep(dict(zip(new, decoded, strict=True)))
        return [self._answers[prompt] for prompt in prompts]

    def original_texts(self, prompts: Sequence[str]) -> list[str]:
        """Greedy answers of the unedited model, as texts."""
        return [self.asking.text(ids) for ids in self.original_answers(prompts)]

    def original_texts_beside(self, questions: Sequence[tuple[str, str]]) -> list[str]:
        """Greedy answers of the unedited model to prompts, each as long as the text that it is
        compared with, where that is longer than answers are by default.

        Args:
            questions: Prompts, each with the text that its answer is compared with.
        """
        found = self.original_texts([prompt for prompt, _ in questions])
        encoded = {
            place: self.encode(prompt, text)
            for place, (prompt, text) in enumerate(questions)
            if text
        }
        long = {
            place: one
            for place, one in encoded.items()
            if len(one.answer) > self.max_new_tokens or "\n" in questions[place][1]
        }
        decoded = self.greedy(
            [one.prompt for one in long.values()],
            [max(len(one.answer), self.max_new_tokens) for one in long.values()],
            [questions[place][1] for place in long],
        )
        for place, text in zip(long, decoded, strict=True):
            found[place] = text
        return found

    def greedy(
        self,
        prompts: Sequence[Sequence[int]],
        limits: Sequence[int],
        expected: Sequence[str],
        enough: Callable[[int, str], bool] | None = None,
    ) -> list[str]:
        """Greedy answers of the model as it is, with the edits that are in effect.

        Args:
            prompts: Token ids.
            limits: Where an answer without an end is cut.
            expected: The right answers; of one of several lines as many are read, and an empty text
                where none is known.
            enough: Whether an answer goes no further, by its prompt's place and its text so far.
        """
        answers = [""] * len(prompts)
        for lines in (False, True):
            rows = [row for row, answer in enumerate(expected) if ("\n" in answer) == lines]
            until = None if enough is None else partial(self._is_enough, enough, rows, expected)
            decoded = self.language.greedy(
                [prompts[row] for row in rows],
                [limits[row] for row in rows],
                stops=self.asking.stops("\n" if lines else ""),
                until=until,
            )
            for row, ids in zip(rows, decoded, strict=True):
                answers[row] = self.asking.text(ids, expected[row])
        return answers

    def _is_enough(
        self,
        enough: Callable[[int, str], bool],
        rows: Sequence[int],
        expected: Sequence[str],
        place: int,
        ids: Sequence[int],
    ) -> bool:
        """`enough` of an answer's tokens, by its prompt's place among `rows`."""
        row = rows[place]
        return enough(row, self.asking.text(ids, expected[row]))
