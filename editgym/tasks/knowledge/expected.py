"""Questions whose answers are expected, as a model reads them, and what it says to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]
Wanted = tuple[str, str]  # an answer, and the text inside whose length none is cut


@dataclass(frozen=True)
class Expected:
    """A prompt and the answer that is expected.

    Attributes:
        prompt: Its tokens.
        answer: The answer's tokens.
        said: What these say.
        right: The right answer; empty where none is known.
        wanted: What the task's scorer compares the model's answer with.
        original: Tokens of the prompt that the unedited model is asked; None where no divergence
            from it is asked for.
        beside: Tokens of other answers, whose probabilities are asked for.
    """

    prompt: Tokens
    answer: Tokens
    said: str
    right: str
    wanted: Sequence[Wanted]
    original: Tokens | None = None
    beside: Sequence[Tokens] = ()

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Result:
    """What the edited model says to one question.

    Attributes:
        answer: Its greedy answer.
        accuracy: Share of the expected tokens, without the end token, that it predicts.
        log_probability: Mean over those tokens.
        divergence: KL(unedited ‖ edited), mean over the answer's tokens, at most 700; None where it
            was not asked for.
        beside: Mean log-probabilities of other answers, likewise.
    """

    answer: str
    accuracy: float
    log_probability: float
    divergence: float | None = None
    beside: tuple[float, ...] = ()
