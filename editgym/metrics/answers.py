"""What counts as an answer: the scorers of answers to questions about facts, on texts alone.

A model's answer is one text, decoded greedily up to the end that its prompt's format has. Every
scorer looks at that same text: it may cut it further, and says whether it gives the expected answer
and whether two models' answers are the same.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_QUOTES = "\"'`´“”„‟‘’‚‛«»‹›"
_PUNCTUATION = ".,;:!?。、"
# Scripts that are written without spaces between words, by the names of their letters.
_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "BOPOMOFO",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
# A full stop ends a sentence where white space or nothing follows it, "3.5" goes on; the full stop
# of Chinese and Japanese needs no blank after it.
_FULL_STOP = re.compile(r"\.(?=\s|$)|。")
_SURE_STOP = re.compile(r"\.(?=\s)|。")  # whatever follows


@dataclass(frozen=True)
class Scorer:
    """One convention of comparing answers.

    Attributes:
        name: Its name, which metrics have as a suffix, `reliability_squad`, where it is not the
            task's own.
        words: What it compares, for tables and pages.
        same: Whether a text gives an answer: (text, answer) -> bool.
        one_sentence: Whether a text is cut at its first full stop first.
        in_order: The words of a text, signs left out, where a text can only give an answer that has
            the same ones in the same order from the first on; None where it is not so.
    """

    name: str
    words: str
    same: Callable[[str, str], bool]
    one_sentence: bool = False
    in_order: Callable[[str], list[str]] | None = None

    def gives(self, answer: str, expected: str, aliases: Sequence[str] = ()) -> bool:
        """Whether an answer gives the expected one, or one of its other names.

        Args:
            answer: What a model says.
            expected: What it should say.
            aliases: Other names of `expected`, each as good.
        """
        return any(self.same(self.cut(answer, one), one) for one in (expected, *aliases))

    def agree(self, now: str, before: str, expected: str | None = None) -> bool:
        """Whether two models give the same answer; both are cut alike.

        Args:
            now: The edited model's answer.
            before: The unedited model's.
            expected: The right answer where it is known: neither is cut inside its length.
        """
        kept = expected or ""
        return self.same(self.cut(now, kept), self.cut(before, kept))

    def settled(self, begun: str, expected: str, kept: str | None = None) -> bool:
        """Whether nothing that may follow a text decides about it any more: its sentence has ended,
        or its whole words are not those of the answer.

        Args:
            begun: What a model has said so far; its last word may go on.
            expected: The answer that it is compared with, cut already where it is cut.
            kept: A text inside whose length nothing is cut; `expected` by default.
        """
        if self.in_order is None:
            return False
        text = begun.lstrip()
        if self.one_sentence and _SURE_STOP.search(
            text, len((expected if kept is None else kept).strip())
        ):
            return True
        said, wanted = self.in_order(text)[:-1], self.in_order(expected)
        return bool(wanted) and said != wanted[: len(said)]

    def cut(self, answer: str, expected: str) -> str:
        """The part of an answer that is compared.

        An answer is cut at its first full stop that white space or the end follows, where this
        scorer reads one sentence, but never inside the length of the expected answer: "St. Louis",
        "U.S." and "3.5" survive. This is the convention of LocFT-BF's released scorer.
        """
        if not self.one_sentence:
            return answer
        answer = answer.lstrip()
        stop = _FULL_STOP.search(answer, len(expected.strip()))
        return answer if stop is None else answer[: stop.start()]


def is_unspaced(text: str) -> bool:
    """Whether a text begins in a script that is written without spaces between words."""
    return bool(text) and unicodedata.name(text[0], "").startswith(_UNSPACED)


def mentions(text: str, answer: str) -> bool:
    """Whether a text has an answer in it, as `normalized` has both: as whole words, which "art" is
    not in "Stuttgart", or anywhere where its script has no spaces.
    """
    whole, wanted = normalized(text), normalized(answer)
    if is_unspaced(wanted):
        return wanted in whole
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", whole) is not None


def normalized(text: str) -> str:
    """What `exact` compares two answers by.

    Unicode NFKC, lower case, white space collapsed, then quotes on both sides and `.,;:!?。、` at
    the end taken off, in whatever order they are nested. Other signs stay (`50%`, `C++`), and so
    does a text that is nothing but these.
    """
    words = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    return _without_signs(words) or words


def _without_signs(text: str) -> str:
    """A text without quotes on both sides and punctuation at its end."""
    return text.lstrip(f"{_QUOTES} ").rstrip(f"{_QUOTES}{_PUNCTUATION} ")


def squad_normalized(text: str) -> str:
    """SQuAD's normalisation (Rajpurkar et al. 2016): lower case, no punctuation of ASCII, no
    articles, one space between words.
    """
    plain = _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION))
    return " ".join(plain.split())


def _exact(text: str, answer: str) -> bool:
    return normalized(text) == normalized(answer)


def _squad(text: str, answer: str) -> bool:
    """Equal after SQuAD's normalisation; as they stand where it leaves nothing of the answer."""
    wanted = squad_normalized(answer)
    return squad_normalized(text) == wanted if wanted else _exact(text, answer)


def _squad_words(text: str) -> list[str]:
    return squad_normalized(text).split()


def _words(text: str, answer: str) -> tuple[list[str], list[str]]:
    """The words of a text and of an answer, both normalised in the same way: as SQuAD does, or
    where that leaves nothing of the answer with their articles, or as they stand.
    """
    for words in (_squad_words, _plain_words):
        if wanted := words(answer):
            return words(text), wanted
    return normalized(text).split(), normalized(answer).split()


def _plain_words(text: str) -> list[str]:
    return text.lower().translate(_WITHOUT_PUNCTUATION).split()


def _contains(text: str, answer: str) -> bool:
    """Whether every word of the answer is a word of the text."""
    said, wanted = _words(text, answer)
    return set(wanted) <= set(said) if wanted else not said


def _prefix(text: str, answer: str) -> bool:
    """Whether the text begins with the answer's words."""
    said, wanted = _words(text, answer)
    return said[: len(wanted)] == wanted if wanted else not said


SCORERS: Mapping[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        Scorer(
            "exact",
            "the whole answer, but for case, quotes and closing punctuation",
            _exact,
            in_order=lambda text: _without_signs(normalized(text)).split(),
        ),
        Scorer(
            "squad",
            "the first sentence, normalised as SQuAD does",
            _squad,
            one_sentence=True,
            in_order=_squad_words,
        ),
        Scorer("contains", "every word of the answer is in the text", _contains),
        Scorer("prefix", "the text begins with the answer", _prefix, in_order=_squad_words),
    )
}
EXACT = SCORERS["exact"]
