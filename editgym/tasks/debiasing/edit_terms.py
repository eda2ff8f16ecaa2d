"""What the edit term O of a debiasing task is made of: accuracy on texts about identities, and how
differently identities are treated, by name and weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from editgym.checks import Check, is_finite, require_known
from editgym.data.errors import DataError
from editgym.data.identity import IdentityTexts
from editgym.metrics.fairness import (
    equalized_odds_gap,
    fned,
    fped,
    memberships,
    worst_group_accuracy,
)

UNBIASED = "unbiased"
PAPERS_TERMS: Mapping[str, float] = MappingProxyType({"unbiased_accuracy": 1.0})
# A step has this many streams of random numbers for the batches of its reward sets, and general and
# unbiased have two of them.
MOST_SETS = 62
_LABELS = ("not_toxic", "toxic")
_WEIGHTS = Check(
    lambda v: (
        v is None
        or (
            isinstance(v, Mapping)
            and len(v) > 0
            and all(is_finite(one) and one > 0 for one in v.values())
        )
    ),
    "an object of terms and their weights, above 0 and finite, or None",
)


@dataclass(frozen=True)
class Rates:
    """What K candidates score on texts about identities.

    Attributes:
        unbiased: Mean score on all of them, (K,).
        errors: For the labels 0 and 1, one minus the mean score on every identity's texts with this
            label, (K, identities that have some): false positive and false negative rates. They are
            probabilities of an error where the signal is a probability.
        overall: For the labels 0 and 1 the same on all texts with this label, (K,).
    """

    unbiased: Tensor
    errors: tuple[Tensor, ...] = ()
    overall: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Term:
    """One term of O.

    Attributes:
        sign: 1 where larger is better, −1 where smaller is.
        value: The term of K candidates, (K,).
        metric: The report's metric of labels, predictions and identities that the term stands for,
            None where no identities are compared.
    """

    sign: int
    value: Callable[[Rates], Tensor]
    metric: Callable[[Any, Any, Any], float | None] | None = None


def _difference(rates: Rates, label: int) -> Tensor:
    return (rates.errors[label] - rates.overall[label].unsqueeze(1)).abs().sum(1)


def _gap(rates: Rates) -> Tensor:
    spread = [own.amax(1) - own.amin(1) for own in rates.errors if own.shape[1] > 1]
    return torch.stack(spread).amax(0)


# Named as the reports' metrics (`editgym.metrics.fairness`), which say what each is.
TERMS: Mapping[str, Term] = {
    "unbiased_accuracy": Term(1, lambda rates: rates.unbiased),
    "worst_group_accuracy": Term(
        1, lambda rates: 1 - torch.cat(rates.errors, dim=1).amax(1), worst_group_accuracy
    ),
    "equalized_odds_gap": Term(-1, _gap, equalized_odds_gap),
    "fped": Term(-1, lambda rates: _difference(rates, 0), fped),
    "fned": Term(-1, lambda rates: _difference(rates, 1), fned),
}


class EditTerms:
    """O = Σ weight · term, minus where a smaller term is better, of one set of texts.

    Attributes:
        members: The rows of the texts in each reward set that the terms need beside `unbiased`:
            every identity's texts with each label, called `identity:toxic` and
            `identity:not_toxic`, and all texts with each label. None where no term compares
            identities.

    Args:
        weights: Weights by the terms' names; None for `PAPERS_TERMS`.
        texts: The texts that rewards come from.

    Raises:
        ValueError: A term is unknown, or a weight is not above 0 and finite.
        DataError: The texts leave a term nothing to compare, or have too many identities.
    """

    def __init__(self, weights: Mapping[str, float] | None, texts: IdentityTexts) -> None:
        _WEIGHTS("edit_terms", weights)
        self.weights = dict(PAPERS_TERMS if weights is None else weights)
        require_known("edit_terms: there is no", self.weights, TERMS)
        self.members: dict[str, Tensor] = {}
        self._overall: list[str] = []
        self._groups: tuple[list[str], list[str]] = ([], [])
        if any(TERMS[name].metric for name in self.weights):
            self._divide(texts)

    def __call__(self, scores: Mapping[str, Tensor]) -> Tensor:
        """O, (K,), of the mean scores of every reward set, each (K,)."""
        if self.weights == PAPERS_TERMS:
            return scores[UNBIASED]
        unbiased = scores[UNBIASED]
        none = unbiased.new_zeros(len(unbiased), 0)
        errors = (
            1 - torch.stack([scores[name] for name in names], dim=1) if names else none
            for names in self._groups
        )
        overall = (1 - scores[name] for name in self._overall)
        rates = Rates(unbiased, tuple(errors), tuple(overall))
        terms = [
            weight * TERMS[name].sign * TERMS[name].value(rates)
            for name, weight in self.weights.items()
        ]
        return torch.stack(terms).sum(0)

    def _divide(self, texts: IdentityTexts) -> None:
        labels = torch.tensor(texts.labels)
        for name in self.weights:
            metric = TERMS[name].metric
            if metric and metric(texts.labels, [0] * len(texts), texts.identities) is None:
                raise DataError(
                    f"edit_terms: {name} compares identities, and the {len(texts)} texts of the"
                    f" policy split leave nothing to compare: they are about"
                    f" {', '.join(texts.terms) or 'no identity'}"
                )
        if UNBIASED in texts.terms:
            raise DataError(
                f"edit_terms: an identity is called {UNBIASED!r}, as the reward set of all"
                " identities is; give it another name"
            )
        for label, word in enumerate(_LABELS):
            self._overall.append(f"{UNBIASED}:{word}")
            self.members[self._overall[-1]] = (labels == label).nonzero().flatten()
        for term, about in memberships(texts.identities):
            for label, word in enumerate(_LABELS):
                rows = (torch.from_numpy(about) & (labels == label)).nonzero().flatten()
                if len(rows):
                    self._groups[label].append(f"{term}:{word}")
                    self.members[self._groups[label][-1]] = rows
        if len(self.members) > MOST_SETS - 2:
            raise DataError(
                f"edit_terms: the policy split has {len(texts.terms)} identities, and at most"
                f" {(MOST_SETS - 4) // 2} can be compared; max_identities= keeps the most frequent"
                " ones"
            )
