"""Texts about identities from files of any shape: a name in a column, a column for each identity,
several columns at once, or terms that are looked for in the text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from editgym.checks import Check, is_finite, optional, require_known
from editgym.data.errors import DataError
from editgym.data.identity import BLANK, COLUMNS_HINT, IdentityTexts, dixon_templates
from editgym.data.labels import TOXIC_VALUES, LabelReader
from editgym.data.table import UTF8, table
from editgym.data.text import checked_text
from editgym.imports import imported_as, is_import_path

IdentityReader = Callable[[str | os.PathLike[str], str], IdentityTexts]
_CROSS = " & "  # between the names of an intersection
_SHARES = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0, "": 0.0}
_TRUTHS = frozenset(_SHARES) - {""}

_TEXT = Check(lambda v: isinstance(v, str) and v != "", "a text")
_NAMES = Check(
    lambda v: isinstance(v, list | tuple) and all(map(_TEXT.valid, v)), "a list of texts"
)
_CHECKS: Mapping[str, Check] = {
    "text": _TEXT,
    "label": _TEXT,
    "identity": Check(lambda v: _TEXT.valid(v) or _NAMES.valid(v), "a column or a list of columns"),
    "shares": _NAMES,
    "terms": _NAMES,
    "template": optional(_TEXT),
    "separator": optional(_TEXT),
    "names": Check(
        lambda v: (
            isinstance(v, Mapping) and all(one is None or _TEXT.valid(one) for one in v.values())
        ),
        "an object whose values are names, or null for no identity",
    ),
    "threshold": Check(lambda v: is_finite(v) and 0 < v <= 1, "above 0 and at most 1"),
    "crossed": Check(lambda v: isinstance(v, bool), "true or false"),
    "toxic_values": TOXIC_VALUES,
    "encoding": optional(_TEXT),
}


@dataclass(frozen=True, kw_only=True)
class IdentityFormat:
    """Where a table keeps texts, labels and whom the texts are about.

    A text's identities are those of all of `identity`, `shares` and `terms` together. Where one of
    these is given, a text without any identity is left out; where none is, all texts are kept, and
    there is nothing to compare.

    Attributes:
        text: Column of the text.
        label: Column of the label.
        identity: Columns whose cells name an identity: one column, or several. In JSON Lines a cell
            may be a list of names, and null is no identity; false, 0 and the like have to stand in
            `names`.
        shares: Columns that are called for an identity, such as `muslim`, whose cells say how far
            a text is about it: a share of raters from 0 to 1, or true or false; empty is 0.
        terms: Names that are looked for in the text, as whole words in any case.
        template: Column that is the same in texts that differ by the identity alone. By default a
            text's template is the text with its identities' names blanked.
        separator: What stands between several names in one cell; by default a cell is one name.
        names: Other names for what stands in cells, in `shares` and in `terms`; null for what is no
            identity.
        threshold: The share from which a text is about an identity.
        crossed: Whether a text's identities are one together, an intersection: `black & woman`.
        toxic_values: The label's values that mean toxic, where all others do not; by default
            numbers from one half on, and known words (`editgym.data.labels`).
        encoding: A codec of Python's; None for that of the task's argument.

    Raises:
        ValueError: An attribute is not as it has to be.
    """

    text: str
    label: str
    identity: str | Sequence[str] = ()
    shares: Sequence[str] = ()
    terms: Sequence[str] = ()
    template: str | None = None
    separator: str | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    threshold: float = 0.5
    crossed: bool = False
    toxic_values: Sequence[str | float | bool] | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            check(f"identities_format: {name}", getattr(self, name))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose cells name an identity."""
        return (self.identity,) if isinstance(self.identity, str) else tuple(self.identity)

    def read(self, path: str | os.PathLike[str], encoding: str = UTF8) -> IdentityTexts:
        """The texts of a file (`editgym.data.table`).

        Blank texts and texts that nobody labelled are left out.

        Args:
            path: The file.
            encoding: A codec of Python's, where the format names none.

        Raises:
            DataError: The file is missing, no table, or lacks a column or a value; a label or share
                says nothing that is known; no text is about an identity; or a name of `names` never
                comes. The message names file, row and column.
        """
        label_of = LabelReader(self.label, toxic_values=self.toxic_values)
        others = (self.label, *self.columns, *self.shares)
        others += () if self.template is None else (self.template,)
        found: list[tuple[str, int, str | tuple[str, ...], str, str]] = []
        met: set[str] = set()
        known = bool(self.columns or self.shares or self.terms)
        codec = self.encoding or encoding
        for where, row in table(
            path, (self.text,), optional=others, encoding=codec, hint=COLUMNS_HINT
        ):
            text = checked_text(row[self.text], f"{where}, column {self.text}")
            label = label_of(row[self.label], where) if text else None
            if label is None:
                continue
            raw = list(dict.fromkeys(self._raw_names(text, row, where)))
            met.update(raw)
            own = self._identities(raw)
            if own or not known:
                template = self._template(text, raw, row)
                found.append((text, label, own[0] if len(own) == 1 else own, template, ""))
        self._check_names(path, met, bool(found))
        label_of.check(path)
        return IdentityTexts(*map(tuple, zip(*found, strict=True)))

    def _raw_names(self, text: str, row: Mapping[str, Any], where: str) -> Iterator[str]:
        """Whom a text is about, as it stands in the file."""
        for column in self.columns:
            cell = row[column]
            cells = cell if isinstance(cell, list) else [cell]
            for one in cells:
                written = self._written(one, f"{where}, column {column}")
                parts = [written] if self.separator is None else written.split(self.separator)
                yield from (part.strip() for part in parts if part.strip())
        for column in self.shares:
            if _share(row[column], f"{where}, column {column}") >= self.threshold:
                yield column
        if self.terms:
            spelling = {term.casefold(): term for term in self.terms}
            for match in _whole_words(tuple(self.terms)).finditer(text):
                yield spelling.get(match[0].casefold(), match[0])

    def _written(self, cell: Any, where: str) -> str:
        """What stands in a cell that names an identity.

        Raises:
            DataError: It is a truth value, a number of JSON's or an object, which name nobody, and
                `names` does not say what it stands for.
        """
        if cell is None:
            return ""
        written = cell if isinstance(cell, str) else json.dumps(cell)
        is_name = isinstance(cell, str) and written.strip().casefold() not in _TRUTHS
        if not is_name and written.strip() not in self.names:
            raise DataError(
                f"{where}: expected the name of an identity, or a list of names, got {cell!r}; say"
                f" what it stands for, names={{{json.dumps(written.strip())}: null}} where that is"
                " none, or give a column that says yes or no in shares"
            )
        return written

    def _identities(self, raw: Sequence[str]) -> tuple[str, ...]:
        names = (self.names.get(name, name) for name in raw)
        own = tuple(dict.fromkeys(name for name in names if name is not None))
        return (_CROSS.join(own),) if self.crossed and own else own

    def _template(self, text: str, raw: Sequence[str], row: Mapping[str, Any]) -> str:
        given = None if self.template is None else row[self.template]
        if given is not None and str(given).strip():
            return str(given)
        names = {*raw, *(self.names.get(name) or name for name in raw)}
        return _whole_words(tuple(sorted(names))).sub(BLANK, text) if names else text

    def _check_names(self, path: object, met: set[str], any_text: bool) -> None:
        unknown = [name for name in self.names if name not in met]
        if unknown:
            raise DataError(
                f"identities_format: names: {path} has no {', '.join(map(repr, unknown))}; it has"
                f" {', '.join(map(repr, sorted(met)[:20])) or 'no name'}"
            )
        if not any_text:
            where = ", ".join((*self.columns, *self.shares)) or "the texts"
            raise DataError(f"data: {path} has no labelled text about an identity, by {where}")


# HateCheck (Röttger et al. 2021): test cases, a group in a column, and the template of each.
# CivilComments with identities (Borkan et al. 2019): shares of raters; the second is Kaggle's file.
_CIVIL = (
    *("male", "female", "transgender", "other_gender"),
    *("heterosexual", "homosexual_gay_or_lesbian", "bisexual", "other_sexual_orientation"),
    *("christian", "jewish", "muslim", "hindu", "buddhist", "atheist", "other_religion"),
    *("black", "white", "asian", "latino", "other_race_or_ethnicity"),
    *("physical_disability", "intellectual_or_learning_disability"),
    *("psychiatric_or_mental_illness", "other_disability"),
)
IDENTITY_FORMATS: Mapping[str, IdentityReader] = {
    "dixon": dixon_templates,
    "hatecheck": IdentityFormat(
        text="test_case", label="label_gold", identity="target_ident", template="templ_id"
    ).read,
    "civil_comments": IdentityFormat(text="text", label="toxicity", shares=_CIVIL).read,
    "civil_comments_kaggle": IdentityFormat(
        text="comment_text", label="target", shares=_CIVIL
    ).read,
}


def identity_reader(given: str | Mapping[str, Any]) -> IdentityReader:
    """What reads a file of texts about identities.

    Args:
        given: A row of `IDENTITY_FORMATS`, the import path of an `IdentityFormat`, or the
            attributes of one.

    Raises:
        DataError: There is no such format.
        ValueError: An attribute is unknown, missing, or not as it has to be.
    """
    if isinstance(given, Mapping):
        names = [one.name for one in fields(IdentityFormat)]
        require_known("identities_format: there is no", given, names)
        for needed in ("text", "label"):
            _TEXT(f"identities_format: {needed}", given.get(needed))
        return IdentityFormat(**given).read
    if is_import_path(given):
        return imported_as(IdentityFormat, given, "identities_format").read
    if not isinstance(given, str) or given not in IDENTITY_FORMATS:
        raise DataError(
            f"identities_format: there is no {given!r}; the formats are"
            f" {', '.join(IDENTITY_FORMATS)}; for other files give an object with their columns,"
            ' such as {"text": "said", "label": "rude", "identity": "who"}'
        )
    return IDENTITY_FORMATS[given]


def _share(value: Any, where: str) -> float:
    """How far a text is about an identity, 0–1."""
    written = "" if value is None else str(value).strip().casefold()
    try:
        share = _SHARES[written] if written in _SHARES else float(written)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise DataError(f"{where}: expected a share from 0 to 1, true or false, got {value!r}")
    return share


@lru_cache(maxsize=4_096)
def _whole_words(names: tuple[str, ...]) -> re.Pattern[str]:
    """What finds any of some names where no letter or digit stands beside it, the longest first."""
    longest = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)", re.IGNORECASE)
