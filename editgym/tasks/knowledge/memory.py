"""Facts that are looked up: which of them is the nearest to a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from editgym.weights.state import Remembered

_QUESTIONS_AT_ONCE = 1_024
_DIGITS = 9  # of a cosine: equal bags of words are equally near, and a prompt to itself 1
_WORD = r"\w+"  # also words of one letter, which scikit-learn leaves out by default


class Memory:
    """Remembered facts, and the one that a question is asked after.

    A prompt is its words, weighted by TF-IDF over the remembered prompts (scikit-learn's
    `TfidfVectorizer`: smooth inverse document frequencies, vectors of length 1, case does not
    count). A question's fact is that of the nearest prompt, by the cosine of the two vectors, where
    this is at least the fact's threshold and more than 0; of equally near ones, the latest. Words
    that no remembered prompt has do not count.

    Args:
        facts: Answers and thresholds by prompt, the latest last (`EditedWeights.remembered`).
    """

    def __init__(self, facts: Mapping[str, Remembered]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        latest_first = list(facts.items())[::-1]
        self._facts = [(prompt, fact.answer) for prompt, fact in latest_first]
        thresholds = [fact.threshold for _, fact in latest_first]
        self._thresholds = np.array(thresholds).round(_DIGITS)
        self._vectors: Any = TfidfVectorizer(token_pattern=_WORD)
        words = self._vectors.build_analyzer()
        # Prompts without a word have no vocabulary, and nothing is near to them.
        self._readable = any(words(prompt) for prompt in facts)
        if self._readable:
            self._known: Any = self._vectors.fit_transform([prompt for prompt, _ in self._facts])

    def solved(self, prompts: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
        """The fact that each question is asked after, as (prompt, answer); none where none is
        near.
        """
        if not self._readable:
            return [()] * len(prompts)
        starts = range(0, len(prompts), _QUESTIONS_AT_ONCE)
        parts = (prompts[start : start + _QUESTIONS_AT_ONCE] for start in starts)
        return [fact for part in parts for fact in self._nearest(part)]

    def _nearest(self, prompts: Sequence[str]) -> list[tuple[tuple[str, str], ...]]:
        cosines = (self._vectors.transform(prompts) @ self._known.T).toarray().round(_DIGITS)
        best = cosines.argmax(1)  # the first of equal ones
        nearness = cosines[np.arange(len(prompts)), best]
        near = (nearness >= self._thresholds[best]) & (nearness > 0)
        return [
            (self._facts[index],) if held else () for index, held in zip(best, near, strict=True)
        ]
