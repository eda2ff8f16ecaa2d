"""Texts about identities, whose label the identity has no part in, and their division, by which no
near copy leaks.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self, TypeVar

import numpy as np

from editgym.data.errors import DataError
from editgym.data.table import UTF8, table
from editgym.data.text import Comments

K = TypeVar("K", bound=Hashable)
BLANK = "[identity]"
COLUMNS_HINT = "; identities_format= names the columns of another file"
_SHARED_STEM = 5
_WORD = re.compile(r"[^\W_]+")
_GENERIC = {"people", "person", "community", "and", "or", "of", "other"}  # no sign of kinship

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
    """Texts about identities.

    Attributes:
        identities: n identity terms; of a text with several, or with none, all as a tuple.
        templates: n texts without their terms: those of one template differ by the terms alone. A
            text that is like no other is its own template.
        polar_words: n words, each the one that decides the label; empty where none is known.
    """

    identities: tuple[str | tuple[str, ...], ...]
    templates: tuple[str, ...]
    polar_words: tuple[str, ...]

    @property
    def identity_sets(self) -> tuple[tuple[str, ...], ...]:
        """Every text's identity terms."""
        return tuple((own,) if isinstance(own, str) else own for own in self.identities)

    @property
    def terms(self) -> list[str]:
        """All identity terms, sorted."""
        return sorted({term for own in self.identity_sets for term in own})

    def about_most_frequent(self, most: int) -> Self:
        """The texts about the `most` identities that have the most texts; of equal ones the first
        in alphabetical order. The other identities of these texts count no longer.
        """
        counts = Counter(term for own in self.identity_sets for term in own)
        kept = set(sorted(counts, key=lambda term: (-counts[term], term))[:most])
        left = [tuple(term for term in own if term in kept) for own in self.identity_sets]
        one_each = replace(self, identities=tuple(own[0] if len(own) == 1 else own for own in left))
        return one_each.take([row for row, own in enumerate(left) if own])

    def sampled(self, most: int) -> Self:
        """At most so many texts, in order: whole templates, drawn at random, always the same."""
        sizes = Counter(self.templates)
        if len(self) <= most:
            return self
        kept, count = set(), 0
        names = sorted(sizes)
        for place in np.random.default_rng(0).permutation(len(names)):
            if count + sizes[names[place]] <= most:
                kept.add(names[place])
                count += sizes[names[place]]
        return self.take([row for row, name in enumerate(self.templates) if name in kept])


def dixon_templates(path: str | os.PathLike[str], encoding: str = UTF8) -> IdentityTexts:
    """`bias_madlibs_77k.csv` of Dixon et al. (2018), "Measuring and Mitigating Unintended Bias in
    Text Classification".

    50 identity terms in 1,514 templates, both labels equally often for every term. Sentences about
    occupations are left out.

    Raises:
        DataError: The file is missing, lacks a column, or has a row of another kind; the message
            names row and column.
    """
    found: list[tuple[str, int, str, str, str]] = []
    columns = ("Text", "Label", "Template")
    for where, row in table(path, columns, encoding=encoding, hint=COLUMNS_HINT):
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
        hold_out_identities: bool = True,
        alike: Callable[[str], Hashable] = lambda term: "",
        decided: Mapping[str, int] = MappingProxyType({}),
    ) -> IdentitySplits:
        """Divide terms and templates 40/20/40 into policy, validation and test.

        Terms that are forms of one another (`related_terms`) stay together. Templates are divided
        by label. A text whose terms are of several parts is left out.

        Args:
            data: The texts.
            seed: Divides what is not test between policy and validation; test is the same for every
                seed.
            hold_out_words: Whether the words that decide the label are divided in place of the
                templates: then no word that a reward was given for is in the test.
            hold_out_identities: Whether the terms are divided; otherwise every part may have all of
                them, and the templates alone differ.
            alike: Kinds of terms of which every part is to have its share.
            decided: The parts of texts that were divided before, by text: 0 policy, 1 validation, 2
                test, any other number for none. Such a text goes there, with its template.

        Raises:
            DataError: There are too few terms or templates for three parts with both labels, or no
                words to hold out.
        """
        if hold_out_words and not all(data.polar_words):
            raise DataError(
                "hold_out_words: the words that decide the labels are not known of these texts"
            )
        keys = data.polar_words if hold_out_words else data.templates
        labels = dict(zip(keys, data.labels, strict=True))
        part_of_key = _divided(sorted(labels), seed, labels.__getitem__)
        if not hold_out_words:
            part_of_key |= _decided_templates(data, decided)
        groups = related_terms(data.terms) if hold_out_identities else []
        part_of_group = _divided(groups, seed, lambda group: alike(group[0]))
        part_of_term = {term: part for group, part in part_of_group.items() for term in group}
        parts_of_text: dict[str, set[int]] = {}  # a file may have several rows of one
        for text, own, key in zip(data.texts, data.identity_sets, keys, strict=True):
            part = part_of_key[key]
            parts = parts_of_text.setdefault(text, set())
            parts |= {part, decided.get(text, part)}
            parts.update(part_of_term[term] for term in own if term in part_of_term)
        rows: tuple[list[int], ...] = ([], [], [])
        for row, text in enumerate(data.texts):
            parts = parts_of_text[text]
            if parts in ({0}, {1}, {2}):
                rows[min(parts)].append(row)
        divided = [data.take(own) for own in rows]
        _check_parts(divided, groups, len(labels), "words" if hold_out_words else "templates")
        return cls(*divided)


def _decided_templates(data: IdentityTexts, decided: Mapping[str, int]) -> dict[str, int]:
    """The parts of the templates that have a text whose part is decided; −1 where they disagree."""
    found: dict[str, int] = {}
    for text, template in zip(data.texts, data.templates, strict=True):
        if text in decided:
            agrees = found.get(template, decided[text]) == decided[text]
            found[template] = decided[text] if agrees else -1
    return found


def _check_parts(
    parts: Sequence[IdentityTexts], groups: Sequence[tuple[str, ...]], keys: int, kind: str
) -> None:
    fewest = 2 if groups else 0  # terms in a part, where terms are divided
    if all(len(set(part.labels)) == 2 and len(part.terms) >= fewest for part in parts):
        return
    terms = sum(map(len, groups))
    what = f"{terms} identity terms in {keys} {kind}" if groups else f"{keys} {kind}"
    advice = (
        f"; terms that share a word stay together, which leaves {len(groups)} groups;"
        " hold_out_identities=False lets every part have all terms"
    )
    raise DataError(
        f"data: {what} are too few for policy, validation and test with"
        f" {'two terms and ' if groups else ''}both labels each{advice if groups else ''}"
    )


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
        for a in _telling_words(one)
        for b in _telling_words(other)
    )


def _telling_words(term: str) -> list[str]:
    return [word for word in _WORD.findall(term.lower()) if word not in _GENERIC]


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
