"""Plain text that a language model is read with: perplexity is measured on a part of it, and
covariances and the contexts of targets are taken from the rest.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from editgym.data.errors import DataError
from editgym.data.factworld import FactWorld
from editgym.data.factworld_text import RELATIONS
from editgym.models.language import LanguageModel
from editgym.paths import data_folder

FACTWORLD, SAMPLES = "factworld", "samples"
HELD_OUT_TOKENS = 2_000  # what perplexity is measured on
LEAST_TOKENS = 2_000  # of the rest
_FACTWORLD_VERSION = 2  # of FactWorld's sentences: a new number makes covariances be computed again
_HELD_OUT_SENTENCES = 200
_STATEMENTS_PER_FILLER = 4
_PASSAGE_WORDS, _PASSAGE_CHARACTERS = 128, 4_096  # longer passages are cut
_CONTEXT_WORDS = 10


class PlainText(ABC):
    """Text in passages, of which some are held out.

    Attributes:
        held_out: The passages that perplexity is measured on; nothing else reads them.
    """

    held_out: Sequence[str]

    @abstractmethod
    def passages(self) -> Iterator[str]:
        """The other passages, in their order."""

    @abstractmethod
    def contexts(self, count: int, seed: str) -> list[str]:
        """Short texts about something else that may stand before a prompt.

        Args:
            count: How many.
            seed: The same texts for the same seed.
        """

    @property
    @abstractmethod
    def hash(self) -> str:
        """SHA-256 (hexadecimal) of the text."""


class FactWorldText(PlainText):
    """The bundled text: statements about people of FactWorld's policy split, and sentences about
    nobody between them.

    Nothing that a metric asks about is in it: no fact of a validation or test person or of a
    bystander, no wording that is kept for `generalization`, and no sentence that perplexity is
    measured on.
    """

    def __init__(self) -> None:
        self.held_out = FactWorld().filler(_HELD_OUT_SENTENCES, random.Random("perplexity"))

    def passages(self) -> Iterator[str]:
        """Statements in random order, a sentence about nobody after every fourth."""
        world, rng = FactWorld(), random.Random("covariance 1")
        told = [
            f"{template.format(person.name)} {person.facts[relation.name]}"
            for person in world.splits["policy"]
            for relation in RELATIONS
            for template in relation.templates[:-1]
        ]
        rng.shuffle(told)
        for index, statement in enumerate(told):
            yield statement
            if (
                index % _STATEMENTS_PER_FILLER == 0
                and (sentence := world.filler(1, rng)[0]) not in self.held_out
            ):
                yield sentence

    def contexts(self, count: int, seed: str) -> list[str]:
        """Sentences about nobody."""
        return FactWorld().filler(count, random.Random(seed), without=self.held_out)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the text's version and of the held-out sentences."""
        return _hash([_FACTWORLD_VERSION, *self.held_out])


class FileText(PlainText):
    """Text of files: a passage is what stands between two empty lines, cut where it is long.

    The passages that perplexity is measured on are drawn at random, the same ones every time.

    Args:
        files: Plain text, UTF-8.
        language: Counts tokens.

    Raises:
        DataError: A file is missing or is no text, or together they are too short.
    """

    def __init__(self, files: Sequence[Path], language: LanguageModel) -> None:
        read = list(dict.fromkeys(piece for file in files for piece in _pieces(file)))
        order = list(range(len(read)))
        random.Random("held out").shuffle(order)
        held: list[int] = []
        counted = 0
        while order and counted < HELD_OUT_TOKENS:
            held.append(order.pop())
            counted += len(language.prompt_ids(read[held[-1]]))
        out = set(held)
        self.held_out = [read[index] for index in held]
        self._passages = [piece for index, piece in enumerate(read) if index not in out]
        rest = 0
        for piece in self._passages:
            rest += len(language.prompt_ids(piece))
            if rest >= LEAST_TOKENS:
                return
        raise DataError(
            f"text: {', '.join(map(str, files))} has {counted + rest} tokens;"
            f" {HELD_OUT_TOKENS + LEAST_TOKENS:,} or more are needed, of which perplexity is"
            f" measured on {HELD_OUT_TOKENS:,}"
        )

    def passages(self) -> Iterator[str]:
        """The passages that are not held out."""
        yield from self._passages

    def contexts(self, count: int, seed: str) -> list[str]:
        """The beginnings of passages, with a full stop after them."""
        rng = random.Random(seed)
        drawn = (rng.choice(self._passages) for _ in range(count))
        return [" ".join(one.split()[:_CONTEXT_WORDS]).rstrip(".,;:!?") + "." for one in drawn]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the passages in their order, and of which are held out."""
        return _hash([self.held_out, self._passages])


def found_files(names: Sequence[str]) -> list[Path]:
    """Files from the current folder, or in the data folder.

    Raises:
        DataError: One is missing.
    """
    files = []
    for name in names:
        own = Path(name).expanduser()
        file = own if own.is_file() else data_folder() / own
        if not file.is_file():
            raise DataError(
                f"text: no file at {own} nor at {file}; give plain text files, or {FACTWORLD!r}"
            )
        files.append(file)
    return files


def _pieces(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"text: {file} is no plain text in UTF-8: {error}") from error
    for passage in re.split(r"\n\s*\n", text):
        words = passage.split(" ")
        for start in range(0, len(words), _PASSAGE_WORDS):
            piece = " ".join(words[start : start + _PASSAGE_WORDS]).strip()
            # A script that is written without spaces has no words to be cut at.
            for begin in range(0, len(piece), _PASSAGE_CHARACTERS):
                yield piece[begin : begin + _PASSAGE_CHARACTERS]


def _hash(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
