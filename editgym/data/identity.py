"""Texts about identities whose label the identity has no part in, divided so that no near copy
leaks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from editgym.data.errors import DataError
from editgym.data.text import Comments, table

K = TypeVar("K", bound=Hashable)
BLANK = "[identity]"
_SHARED_STEM = 5

# The six kinds of sentence of Dixon et al. (2018); occupations are no identities.
_DIXON = {
    "name_adj": re.compile(r".+? is a (?P<word>\S+) (?P<identity>.+)"),
    "being_adj": re.compile(r"Being (?P<identity>.+) is (?P<word>\S+)\."),
    "you_are_adj": re.compile(r"You are a (?P<word>\S+) (?P<identity>.+)"),
    "verb_adj": re.compile(r"(?P<word>\S+) (?P<identity>.+)"),
    "am_hate_adj": re.compile(r"i (?P<word>\S+) (?P<identity>.+)"),
}
_NOT_ABOUT_IDENTITIES = ("you_occupation",)
_LABELS = {"BAD": 1, "NOT_BAD": 0}


@dataclass(frozen=True)
class IdentityTexts(Comments):
    """Texts, each with one identity term.

    Attributes:
        identities: n identity terms.
        templates: n texts without their term: those of one template differ by the term alone.
        polar_words: n words, each the one that decides the label.
    """

    identities: tuple[str, ...]
    templates: tuple[str, ...]
    polar_words: tuple[str, ...]


def dixon_templates(path: str | os.PathLike[str]) -> IdentityTexts:
    """`bias_madlibs_77k.csv` of Dixon et al. (2018), "Measuring and Mitigating Unintended Bias in
    Text Classification".

    50 identity terms in 1,514 templates, both labels equally often for every term. Sentences about
    occupations are left out.

    Raises:
        DataError: The file is missing, lacks a column, or has a row of another kind; the message
            names row and column.
    """
    found: list[tuple[str, int, str, str, str]] = []
    for where, row in table(path, ("Text", "Label", "Template")):
        text, kind = row["Text"], row["Template"]
        if row["Label"] not in _LABELS:
            raise DataError(
                f"{where}, column Label: expected {' or '.join(_LABELS)}, got {row['Label']!r}"
            )
        if kind in _NOT_ABOUT_IDENTITIES:
            continue
        if kind not in _DIXON:
            raise DataError(
                f"{where}, column Template: expected one of {', '.join(_DIXON)}, got {kind!r}"
            )
        match = _DIXON[kind].fullmatch(text)
        if match is None:
            raise DataError(f"{where}, column Text: {text!r} is no sentence of the kind {kind}")
        start, end = match.span("identity")
        found.append(
            (
                text,
                _LABELS[row["Label"]],
                match["identity"],
                text[:start] + BLANK + text[end:],
                match["word"],
            )
        )
    if not found:
        raise DataError(f"data: {path} has no sentence about an identity")
    return IdentityTexts(*map(tuple, zip(*found, strict=True)))


@dataclass(frozen=True)
class IdentitySplits:
    """Parts that share neither an identity term nor a template.

    So no text of one part is a text of another with one of the two exchanged; what has the term of
    one part and the template of another is left out.
    """

    policy: IdentityTexts
    validation: IdentityTexts
    test: IdentityTexts

    @classmethod
    def of(
        cls,
        data: IdentityTexts,
        seed: int,
        *,
        hold_out_words: bool = False,
        alike: Callable[[str], Hashable] = lambda term: "",
    ) -> IdentitySplits:
        """Divide terms and templates 40/20/40 into policy, validation and test.

        Terms that are forms of one another (`related_terms`) stay together. Templates are divided
        by label.

        Args:
            data: The texts.
            seed: Divides what is not test between policy and validation; test is the same for every
                seed.
            hold_out_words: Whether the words that decide the label are divided in place of the
                templates: then no word that a reward was given for is in the test.
            alike: Kinds of terms of which every part is to have its share.

        Raises:
            DataError: There are too few terms or templates for three parts with both labels.
        """
        keys = data.polar_words if hold_out_words else data.templates
        labels = dict(zip(keys, data.labels, strict=True))
        groups = related_terms(data.identities)
        part_of_group = _divided(groups, seed, lambda group: alike(group[0]))
        part_of_term = {term: part for group, part in part_of_group.items() for term in group}
        part_of_key = _divided(sorted(labels), seed, labels.__getitem__)
        rows: tuple[list[int], ...] = ([], [], [])
        for row, (term, key) in enumerate(zip(data.identities, keys, strict=True)):
            if part_of_term[term] == part_of_key[key]:
                rows[part_of_term[term]].append(row)
        parts = [data.take(own) for own in rows]
        if any(len(set(part.labels)) < 2 or len(set(part.identities)) < 2 for part in parts):
            raise DataError(
                f"data: {len(part_of_term)} identity terms in {len(labels)}"
                f" {'words' if hold_out_words else 'templates'} are too few for policy, validation"
                " and test with two terms and both labels each"
            )
        return cls(*parts)


def related_terms(terms: Iterable[str]) -> list[tuple[str, ...]]:
    """Different terms in groups that share a word or its stem, as `trans` and `transgender`,
    `latina` and `latinx`.
    """
    groups: list[set[str]] = []
    for term in sorted(set(terms)):
        own = [group for group in groups if any(_related(term, other) for other in group)]
        groups = [group for group in groups if group not in own] + [{term}.union(*own)]
    return sorted(tuple(sorted(group)) for group in groups)


def _related(one: str, other: str) -> bool:
    return any(
        a.startswith(b) or b.startswith(a) or a[:_SHARED_STEM] == b[:_SHARED_STEM]
        for a in one.split()
        for b in other.split()
    )


def _divided(items: Sequence[K], seed: int, kind: Callable[[K], Hashable]) -> dict[K, int]:
    """A part for every item, 0 policy, 1 validation, 2 test, with 40, 20 and 40 percent of every
    kind.
    """
    parts: dict[K, int] = {}
    for own in dict.fromkeys(map(kind, items)):
        members = [item for item in items if kind(item) == own]
        order = [members[i] for i in np.random.default_rng(0).permutation(len(members))]
        test = round(0.4 * len(order))
        rest = [order[test:][i] for i in np.random.default_rng(seed).permutation(len(order) - test)]
        policy = round(2 / 3 * len(rest))
        parts |= (
            dict.fromkeys(order[:test], 2)
            | dict.fromkeys(rest[:policy], 0)
            | dict.fromkeys(rest[policy:], 1)
        )
    return parts
