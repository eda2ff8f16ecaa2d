"""Texts of the debiasing tasks, bundled or from files, and how they are divided."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from editgym.data.bias_templates import biased_comments, identity_templates, is_targeted
from editgym.data.errors import DataError
from editgym.data.identity import IdentitySplits, IdentityTexts, dixon_templates
from editgym.data.text import BagOfWords, Comments, comment_format, read_comments
from editgym.imports import is_import_path, loaded_as
from editgym.paths import data_folder
from editgym.tasks.debiasing import DebiasingSplits, TextPair

PAPER_SHARES = (0.70, 0.15)
DAVIDSON, DIXON = "davidson_labeled_data.csv", "bias_madlibs_77k.csv"
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class TextData:
    """A data set with its division: `train` may be learnt from, `test` is for reports alone.

    Attributes:
        train: General comments.
        test: General comments, both labels equally often.
        unbiased: Texts about identities, not divided yet.
        alike: Kinds of identity terms of which every part is to have its share.
        hold_out_words: Whether parts share no polar word; otherwise they share no template.
    """

    train: Comments
    test: Comments
    unbiased: IdentityTexts
    alike: Callable[[str], Hashable] = lambda term: ""
    hold_out_words: bool = False

    def splits(self, seed: int) -> DebiasingSplits:
        """Divide 70/15/15 into model, policy and validation split (Malik 2026), and the identities
        beside them.

        General sets have both labels equally often: of the more frequent one the rest is left out.
        """
        model, policy, validation = self.train.shuffled(seed).divided(PAPER_SHARES)
        identity = IdentitySplits.of(
            self.unbiased, seed, hold_out_words=self.hold_out_words, alike=self.alike
        )
        return DebiasingSplits(
            model.balanced(),
            TextPair(policy.balanced(), identity.policy),
            TextPair(validation.balanced(), identity.validation),
            TextPair(self.test, identity.test),
        )


@lru_cache(maxsize=1)
def templates_data() -> tuple[TextData, BagOfWords]:
    """The bundled texts, and the bag of all their words."""
    train, test = biased_comments()
    unbiased = identity_templates()
    return (
        TextData(train, test.balanced(), unbiased, is_targeted),
        BagOfWords.of((*train.texts, *unbiased.texts), len(train)),
    )


def toxicity_data(
    path: str | None,
    name: str,
    text_column: str | None,
    label_column: str | None,
    most: int,
    identities: str | None,
    hold_out_words: bool,
) -> TextData:
    """Comments and identity-term templates from files.

    Args:
        path: The comments' file, or the import path of a function that returns `Comments`; None
            for those of Davidson et al. in the data folder.
        name: A row of `editgym.data.text.FORMATS`, or the import path of a `CommentFormat`.
        text_column: The text's column in a file of one's own.
        label_column: The label's column in it.
        most: How many comments are drawn of a larger file.
        identities: The templates' file, or the import path of a function that returns
            `IdentityTexts`; None for those of Dixon et al. in the data folder.
        hold_out_words: Whether parts share no polar word.

    Raises:
        DataError: A file is missing or malformed.
    """
    folder = data_folder() / "text"
    if path is not None and is_import_path(path):
        read = loaded_as(Comments, path, "comments")
    else:
        columns = comment_format(name, text_column, label_column)
        read = read_comments(path or _present(folder / DAVIDSON, "comments"), columns)
    if identities is not None and is_import_path(identities):
        unbiased = loaded_as(IdentityTexts, identities, "identities")
    else:
        unbiased = dixon_templates(identities or _present(folder / DIXON, "identities"))
    test, train = read.shuffled(0).take(range(min(most, len(read)))).divided((_TEST_SHARE,))
    return TextData(train, test.balanced(), unbiased, hold_out_words=hold_out_words)


def _present(path: Path, argument: str) -> Path:
    if not path.is_file():
        raise DataError(
            f"{argument}: no file at {path}; put it there, set EDITGYM_DATA to the folder above"
            f" text/, or give {argument}= a path"
        )
    return path
