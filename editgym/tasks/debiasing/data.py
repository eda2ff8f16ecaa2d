"""Texts of the debiasing tasks, bundled or from files, and how they are divided."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from editgym.checks import Check, one_of, optional, whole
from editgym.data.bias_templates import biased_comments, identity_templates, is_targeted
from editgym.data.errors import DataError
from editgym.data.identity import IdentitySplits, IdentityTexts
from editgym.data.identity_files import identity_reader
from editgym.data.table import UTF8
from editgym.data.text import BagOfWords, Comments, comment_format, read_comments, words
from editgym.imports import is_import_path, loaded_as
from editgym.paths import data_folder
from editgym.tasks.debiasing.loaded import checked_columns
from editgym.tasks.debiasing.task import DebiasingSplits, TextPair

PAPER_SHARES = (0.70, 0.15)
DAVIDSON, DIXON = "davidson_labeled_data.csv", "bias_madlibs_77k.csv"
_TEST_SHARE = 0.2
_CHECKS: Mapping[str, Check] = {
    "max_comments": whole(1),
    "max_identities": optional(whole(1)),
    "max_identity_texts": whole(1),
    "hold_out_identities": one_of(True, False),
    "hold_out_words": one_of(True, False),
}


@dataclass(frozen=True, kw_only=True)
class TextFiles:
    """Where comments and texts about identities come from; the builder
    `editgym.tasks.debiasing.texts.toxicity` tells what each attribute is.
    """

    comments: str | None = None
    comments_format: str = "davidson"
    text_column: str | None = None
    label_column: str | None = None
    toxic_values: Sequence[str | float | bool] | None = None
    encoding: str = UTF8
    test_comments: str | None = None
    max_comments: int = 30_000
    identities: str | None = None
    identities_format: str | Mapping[str, Any] = "dixon"
    max_identities: int | None = None
    max_identity_texts: int = 100_000
    hold_out_identities: bool = True
    hold_out_words: bool = False

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> TextFiles:
        """The attributes that are among a builder's arguments, by name: its `locals()` on its first
        line.
        """
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})

    def require_unused(self, names: Iterable[str], why: str) -> None:
        """Raise the DataError of attributes that were given and that nobody would look at.

        Args:
            names: The attributes.
            why: What the message ends with.
        """
        given = [name for name in names if getattr(self, name) != getattr(TextFiles(), name)]
        if given:
            raise DataError(f"{', '.join(given)}: {why}")


@dataclass(frozen=True)
class TextData:
    """A data set with its division: `train` may be learnt from, `test` is for reports alone.

    Attributes:
        train: General comments.
        test: General comments, both labels equally often.
        unbiased: Texts about identities, not divided yet.
        alike: Kinds of identity terms of which every part is to have its share.
        hold_out_words: Whether parts share no polar word; otherwise they share no template.
        hold_out_identities: Whether parts share no identity term.
    """

    train: Comments
    test: Comments
    unbiased: IdentityTexts
    alike: Callable[[str], Hashable] = lambda term: ""
    hold_out_words: bool = False
    hold_out_identities: bool = True

    def readable_with(self, encode: BagOfWords) -> TextData:
        """The same without the texts about identities whose label nothing tells that a bag of words
        sees: its polar word, or, where that is not known, any word.

        Raises:
            DataError: None is left.
        """
        known, texts = set(encode.vocabulary), self.unbiased
        rows = [
            row
            for row, (text, word) in enumerate(zip(texts.texts, texts.polar_words, strict=True))
            if (word.lower() in known if word else not known.isdisjoint(words(text)))
        ]
        if not rows:
            raise DataError(
                f"vocabulary: none of the {len(texts)} texts about identities has its word among"
                f" the {len(known)} words that are counted; raise vocabulary=, or give comments"
                " that have such words"
            )
        return replace(self, unbiased=texts.take(rows))

    def splits(self, seed: int) -> DebiasingSplits:
        """Divide 70/15/15 into model, policy and validation split (Malik 2026), and the identities
        beside them.

        General sets have both labels equally often: of the more frequent one the rest is left out.
        A text about identities that is a comment too stays in that comment's split, and in none
        where that is the model split.

        Raises:
            DataError: There are too few texts for every part to have both labels.
        """
        model, policy, validation = self.train.shuffled(seed).divided(PAPER_SHARES)
        identity = IdentitySplits.of(
            self.unbiased,
            seed,
            hold_out_words=self.hold_out_words,
            hold_out_identities=self.hold_out_identities,
            alike=self.alike,
            decided=self._decided((policy, validation, self.test, model)),
        )
        splits = DebiasingSplits(
            model.balanced(),
            TextPair(policy.balanced(), identity.policy),
            TextPair(validation.balanced(), identity.validation),
            TextPair(self.test, identity.test),
        )
        general = (splits.model, splits.policy.general, splits.validation.general, self.test)
        if not all(map(len, general)):
            raise DataError(
                f"comments: {len(self.train)} to train on, of which {sum(self.train.labels)} are"
                f" toxic, and {len(self.test)} to test on are too few for model, policy, validation"
                " and test split with both labels each"
            )
        return splits

    def _decided(self, parts: Sequence[Comments]) -> dict[str, int]:
        """The parts of the texts about identities that are comments too; −1 for several."""
        asked, found = set(self.unbiased.texts), dict[str, int]()
        for number, part in enumerate(parts):
            for text in asked.intersection(part.texts):
                found[text] = -1 if text in found else number
        return found


@lru_cache(maxsize=1)
def templates_data() -> tuple[TextData, BagOfWords]:
    """The bundled texts, and the bag of all their words."""
    train, test = biased_comments()
    unbiased = identity_templates()
    return (
        TextData(train, test.balanced(), unbiased, is_targeted),
        BagOfWords.of((*train.texts, *unbiased.texts), len(train)),
    )


def toxicity_data(files: TextFiles) -> TextData:
    """Comments and texts about identities, read, checked and limited.

    A text of `test_comments` that is among `comments` too is a test text alone, with a warning.

    Raises:
        DataError: A file is missing or malformed, or a loader's data are.
        ValueError: An argument is not as it has to be.
    """
    for name, check in _CHECKS.items():
        check(name, getattr(files, name))
    sources = [files.comments, files.test_comments or files.comments]
    if all(map(is_import_path, sources)):
        files.require_unused(
            ("comments_format", "text_column", "label_column", "toxic_values"),
            f"these are for files, and {sources[0]!r} is a function",
        )
    read = _comments(files, files.comments, "comments")
    unbiased = _identities(files)
    read = _once(read, files.comments or "comments")
    read = read.shuffled(0).take(range(min(files.max_comments, len(read))))
    if files.test_comments is None:
        test, train = read.divided((_TEST_SHARE,))
    else:
        test, train = _comments(files, files.test_comments, "test_comments"), read
        train = _without(train, set(test.texts), "comments", "test_comments")
        if not len(train):
            raise DataError(
                f"test_comments: all {len(read)} comments stand there too, and none is left to"
                " train on; give other comments to test on, or leave it out"
            )
    return TextData(
        train,
        test.balanced(),
        unbiased,
        hold_out_words=files.hold_out_words,
        hold_out_identities=files.hold_out_identities,
    )


def _once(read: Comments, name: str) -> Comments:
    """Every text once, the first time: it could come into two splits otherwise."""
    first = {text: row for row, text in reversed(list(enumerate(read.texts)))}
    if len(first) == len(read):
        return read
    warnings.warn(
        f"comments: {len(read) - len(first)} of the {len(read)} texts of {name} stand there again,"
        " and are left out",
        stacklevel=2,
    )
    return read.take(sorted(first.values()))


def _comments(files: TextFiles, given: str | None, argument: str) -> Comments:
    if given is not None and is_import_path(given):
        return checked_columns(loaded_as(Comments, given, argument), f"{argument}: {given}")
    columns = comment_format(files.comments_format, files.text_column, files.label_column)
    path = given or _present(data_folder() / "text" / DAVIDSON, argument)
    return read_comments(path, columns, encoding=files.encoding, toxic_values=files.toxic_values)


def _identities(files: TextFiles) -> IdentityTexts:
    given = files.identities
    if given is not None and is_import_path(given):
        files.require_unused(
            ("identities_format",), f"it is for files, and {given!r} is a function"
        )
        found = checked_columns(
            loaded_as(IdentityTexts, given, "identities"), f"identities: {given}"
        )
    else:
        read = identity_reader(files.identities_format)
        if given is not None:
            found = read(given, files.encoding)
        elif files.identities_format == "dixon":
            found = read(_present(data_folder() / "text" / DIXON, "identities"), UTF8)
        else:
            raise DataError("identities_format says how to read a file: give identities= its path")
    if files.max_identities is not None:
        found = found.about_most_frequent(files.max_identities)
    sampled = found.sampled(files.max_identity_texts)
    if len(found) and not len(sampled):
        raise DataError(
            f"max_identity_texts: {files.max_identity_texts} leaves none of the {len(found)} texts"
            " about identities, of which whole templates are drawn; the smallest template has"
            f" {min(Counter(found.templates).values())} texts"
        )
    return sampled


def _without(texts: Comments, others: set[str], argument: str, other: str) -> Comments:
    rows = [row for row, text in enumerate(texts.texts) if text not in others]
    if len(rows) < len(texts):
        warnings.warn(
            f"{argument}: {len(texts) - len(rows)} of {len(texts)} texts stand in {other} too, and"
            " are left out here",
            stacklevel=2,
        )
    return texts.take(rows)


def _present(path: Path, argument: str) -> Path:
    if not path.is_file():
        raise DataError(
            f"{argument}: no file at {path}; put it there, set EDITGYM_DATA to the folder above"
            f" text/, or give {argument}= a path"
        )
    return path
