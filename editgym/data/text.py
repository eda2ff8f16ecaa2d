"""Comments with a toxicity label: Davidson, Jigsaw, CivilComments, one's own CSV or JSON Lines; and
a bag of words.
"""

from __future__ import annotations

import html
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from torch import Tensor

from editgym.checks import is_text
from editgym.data.errors import DataError
from editgym.data.labels import UNLABELLED, LabelReader, at_least_half
from editgym.data.table import UTF8, table
from editgym.imports import imported_as, is_import_path

_NOISE = re.compile(r"https?://\S+|@\w+")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True)
class Comments:
    """Texts and whether they are toxic.

    Attributes:
        texts: n texts.
        labels: n labels, 1 for toxic and 0 for not.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Self:
        """The given rows, in that order; a row may come several times."""
        return replace(
            self,
            **{
                field.name: tuple(getattr(self, field.name)[row] for row in rows)
                for field in fields(self)
            },
        )

    def shuffled(self, seed: int) -> Self:
        """All rows in a random order."""
        return self.take(np.random.default_rng(seed).permutation(len(self)).tolist())

    def balanced(self) -> Self:
        """The first rows of the more frequent label only, as many as there are of the other, in
        order.
        """
        rows = self._rows_by_label()
        fewest = min(map(len, rows))
        return self.take(sorted(row for own in rows for row in own[:fewest]))

    def divided(self, shares: Sequence[float]) -> tuple[Self, ...]:
        """Consecutive parts, one for each share and one of what is left."""
        ends = [
            0,
            *(round(sum(shares[: i + 1]) * len(self)) for i in range(len(shares))),
            len(self),
        ]
        return tuple(self.take(range(start, end)) for start, end in pairwise(ends))

    def _rows_by_label(self) -> tuple[list[int], list[int]]:
        return (
            [row for row, label in enumerate(self.labels) if not label],
            [row for row, label in enumerate(self.labels) if label],
        )


def words(text: str) -> list[str]:
    """The lower-case words of a text; links, @names and HTML entities are no words."""
    return _WORD.findall(_NOISE.sub(" ", html.unescape(text)).lower())


@dataclass(frozen=True)
class BagOfWords:
    """Counts of the words of a vocabulary; other words do not count.

    Attributes:
        vocabulary: The words, in the order of the columns.
    """

    vocabulary: tuple[str, ...]

    @classmethod
    def of(cls, texts: Sequence[str], size: int | None) -> BagOfWords:
        """The `size` most frequent words of `texts`, None for all; words of equal number in
        alphabetical order.
        """
        counts = Counter(word for text in texts for word in words(text))
        return cls(tuple(sorted(counts, key=lambda word: (-counts[word], word))[:size]))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Counts, (n, vocabulary) uint8, cut at 255."""
        columns = {word: column for column, word in enumerate(self.vocabulary)}
        counts = np.zeros((len(texts), len(columns)), np.uint8)
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                if word in columns:
                    counts[row, columns[word]] = min(count, 255)
        return torch.from_numpy(counts)


# --- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommentFormat:
    """Where a data set keeps text and label.

    Attributes:
        text: Column of the text.
        label: Column of the label.
        is_toxic: Whether a number in that column means toxic.
        unlabelled: The number of texts that nobody labelled; None where there is none.
    """

    text: str
    label: str
    is_toxic: Callable[[float], bool] = at_least_half
    unlabelled: float | None = UNLABELLED


def _davidson(value: float) -> bool:
    """Davidson et al. 2017: class 0 is hate speech, 1 offensive language, 2 neither."""
    if value not in (0, 1, 2):
        raise ValueError(f"expected the class 0, 1 or 2, got {value:g}")
    return value < 2


# Jigsaw 2018: 0 or 1.
# CivilComments (Borkan et al. 2019): the share of raters; toxic from one half on, as there.
# `target` is the name in Kaggle's file.
FORMATS: Mapping[str, CommentFormat] = {
    "davidson": CommentFormat("tweet", "class", _davidson),
    "jigsaw": CommentFormat("comment_text", "toxic"),
    "civil_comments": CommentFormat("text", "toxicity"),
    "civil_comments_kaggle": CommentFormat("comment_text", "target"),
}


def comment_format(
    name: str | None, text_column: str | None, label_column: str | None
) -> CommentFormat:
    """A format by name or import path, or two columns of a file of one's own.

    The label's column then holds a number from 0 to 1 that is 0.5 or more for toxic, or a word.

    Raises:
        DataError: There is no such format, or only one of the columns is given.
    """
    if text_column is not None and label_column is not None:
        return CommentFormat(text_column, label_column)
    if text_column is not None or label_column is not None:
        raise DataError(
            f"text_column and label_column go together, got {text_column!r} and {label_column!r}"
        )
    if is_import_path(name):
        return imported_as(CommentFormat, str(name), "comments_format")
    if name is None or name not in FORMATS:
        raise DataError(
            f"comments_format: there is no {name!r}; the formats are {', '.join(FORMATS)}; for"
            " other files give text_column= and label_column="
        )
    return FORMATS[name]


def read_comments(
    path: str | os.PathLike[str],
    columns: CommentFormat,
    *,
    encoding: str = UTF8,
    toxic_values: Sequence[str | float | bool] | None = None,
) -> Comments:
    """The comments of a CSV, TSV or JSON Lines file, plain or gzipped, told apart by its ending.

    Blank texts and texts that nobody labelled are left out.

    Args:
        path: The file.
        columns: Where text and label stand.
        encoding: A codec of Python's.
        toxic_values: The label's values that mean toxic, where all others do not; by default the
            format decides about numbers, and words such as true, hateful or non-hateful are known.

    Raises:
        DataError: The file is missing, no table, or lacks a column or a value; a label says nothing
            that is known, or all say the same. The message names file, row and column.
    """
    texts, labels = [], []
    label_of = LabelReader(columns.label, columns.is_toxic, toxic_values, columns.unlabelled)
    hint = "; text_column= and label_column= name those of the text and of the label"
    for where, row in table(
        path, (columns.text,), optional=(columns.label,), encoding=encoding, hint=hint
    ):
        text = checked_text(row[columns.text], f"{where}, column {columns.text}")
        label = label_of(row[columns.label], where) if text else None
        if label is not None:
            texts.append(text)
            labels.append(label)
    label_of.check(path)
    return Comments(tuple(texts), tuple(labels))


def checked_text(value: object, where: str) -> str:
    """A text of a table, empty where it is blank.

    Raises:
        DataError: It is no text; the message begins with `where`.
    """
    if not is_text(value):
        raise DataError(f"{where}: expected a text, got {value!r}")
    return value if value.strip() else ""
