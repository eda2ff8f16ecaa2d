"""How differently a binary classifier treats identities: n texts about them, label 1 for toxic.

Every function takes arrays of length n: `labels` and `predictions` (0 or 1), `scores` (larger is
more toxic), `identities` and `templates` (anything NumPy compares). A text with several identities,
or with none, has a tuple, list or set of them, and counts for each. An identity without the samples
that a metric needs is left out of it; the result is None where no identity has them, and where a
comparison finds nothing to compare with. Arrays of unequal length, labels or predictions other than
0 and 1, and identities that cannot be told apart are a ValueError that names them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

POWER = -5.0


Identities = ArrayLike | Sequence[Any]


def memberships(identities: Identities) -> list[tuple[Any, NDArray[np.bool_]]]:
    """Every identity, sorted, and which texts are about it, (n,).

    Args:
        identities: n identities; a tuple, list or set of them for a text with several or none.

    Raises:
        ValueError: They are None, or of several types, which have no order.
    """
    own = list(identities)  # type: ignore[arg-type]
    _check_terms(own)
    if not any(isinstance(one, tuple | list | set | frozenset) for one in own):
        terms = np.asarray(identities)
        return [(term, terms == term) for term in np.unique(terms)]
    rows: dict[Any, list[int]] = {}
    for row, one in enumerate(own):
        for term in one if isinstance(one, tuple | list | set | frozenset) else (one,):
            rows.setdefault(term, []).append(row)
    found = []
    for term in sorted(rows):
        about = np.zeros(len(own), bool)
        about[rows[term]] = True
        found.append((term, about))
    return found


def fped(labels: ArrayLike, predictions: ArrayLike, identities: Identities) -> float | None:
    """False positive equality difference, Σ_i |FPR − FPR_i| (Dixon et al. 2018, sect. 4.1): 0 is
    equal treatment.

    FPR is the share of predicted 1 among label 0, over all texts and over those of identity i. None
    where every identity has all of these texts.
    """
    return _equality_difference(labels, predictions, identities, label=0)


def fned(labels: ArrayLike, predictions: ArrayLike, identities: Identities) -> float | None:
    """False negative equality difference, Σ_i |FNR − FNR_i| (Dixon et al. 2018, sect. 4.1)."""
    return _equality_difference(labels, predictions, identities, label=1)


def equalized_odds_gap(
    labels: ArrayLike, predictions: ArrayLike, identities: Identities
) -> float | None:
    """The larger of max_i FPR_i − min_i FPR_i and max_i TPR_i − min_i TPR_i.

    Equalized odds (Hardt et al. 2016) hold at 0; this is fairlearn's `equalized_odds_difference`. A
    label that fewer than two identities have is left out.
    """
    gaps = [
        float(np.ptp(rates))
        for label in (0, 1)
        if len(rates := list(_error_rates(labels, predictions, identities, label).values())) > 1
    ]
    return max(gaps, default=None)


def worst_group_accuracy(
    labels: ArrayLike, predictions: ArrayLike, identities: Identities
) -> float | None:
    """Smallest accuracy of all pairs of identity and label, the groups of Sagawa et al. (2020,
    sect. 2).
    """
    errors = [
        rate
        for label in (0, 1)
        for rate in _error_rates(labels, predictions, identities, label).values()
    ]
    return 1 - max(errors) if errors else None


def flip_rate(predictions: ArrayLike, templates: Iterable[Hashable]) -> float | None:
    """Share of pairs of texts of one template, which differ by the identity alone, with different
    predictions.

    Counterfactual token fairness (Garg et al. 2019) counted in predictions, over all pairs of all
    templates.
    """
    predicted, numbers = _binary("predictions", predictions), dict[object, int]()
    # By number: an array of texts would give each the room of the longest.
    order = np.array([numbers.setdefault(one, len(numbers)) for one in templates], dtype=int)
    _check_lengths(predictions=predicted, templates=order)
    size = np.bincount(order).astype(float)
    positive = np.bincount(order, weights=predicted.astype(float))
    pairs = size * (size - 1) / 2
    return float((positive * (size - positive)).sum() / pairs.sum()) if pairs.sum() else None


def subgroup_auc(labels: ArrayLike, scores: ArrayLike, identities: Identities) -> float | None:
    """AUC within the texts of an identity (Borkan et al. 2019, sect. 3), as `power_mean` over
    identities.
    """
    return _over_identities(labels, scores, identities, lambda own, toxic: own)


def bpsn_auc(labels: ArrayLike, scores: ArrayLike, identities: Identities) -> float | None:
    """AUC of background positive, subgroup negative (Borkan et al. 2019, sect. 3), as `power_mean`
    over identities.

    Of the toxic texts about others and the other texts about the identity: low where the identity
    raises the score.
    """
    return _over_identities(labels, scores, identities, lambda own, toxic: own != toxic)


def bnsp_auc(labels: ArrayLike, scores: ArrayLike, identities: Identities) -> float | None:
    """AUC of background negative, subgroup positive (Borkan et al. 2019, sect. 3), as `power_mean`
    over identities.

    Of the other texts about others and the toxic texts about the identity: low where the identity
    lowers the score.
    """
    return _over_identities(labels, scores, identities, lambda own, toxic: own == toxic)


def power_mean(values: ArrayLike, power: float = POWER) -> float:
    """Generalised mean ((1/n) Σ v^p)^(1/p), at p = −5 as in Jigsaw's competition of 2019: it leans
    to the worst.

    0 where a value is 0 and the power negative. At power 0 it is the geometric mean, its limit.
    """
    v = np.asarray(values, float)
    if power <= 0 and (v <= 0).any():
        return 0.0
    if power == 0:
        return float(np.exp(np.log(v).mean()))
    return float(np.mean(v**power) ** (1 / power))


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve: the share of pairs of a positive and a negative in the right order,
    ties one half.

    None where one of the labels is missing.

    Raises:
        ValueError: A score is not finite, and has no place in an order; a label is not 0 or 1, or
            there is not one for each score.
    """
    _check_finite(scores)
    positive = _binary("labels", labels).astype(bool)
    _check_lengths(labels=positive, scores=np.asarray(scores))
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[
        place
    ]  # from 1; ties share the mean of their ranks
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def fairness_metrics(
    labels: ArrayLike, scores: ArrayLike, identities: Identities, templates: Iterable[Hashable]
) -> dict[str, float | None]:
    """All of them by the leaderboard's keys; a text is predicted toxic where its score is greater
    than 0.

    Raises:
        ValueError: A score is not finite.
    """
    _check_finite(scores)
    predictions = (np.asarray(scores) > 0).astype(int)
    return {
        "fped": fped(labels, predictions, identities),
        "fned": fned(labels, predictions, identities),
        "equalized_odds_gap": equalized_odds_gap(labels, predictions, identities),
        "worst_group_accuracy": worst_group_accuracy(labels, predictions, identities),
        "flip_rate": flip_rate(predictions, templates),
        "subgroup_auc": subgroup_auc(labels, scores, identities),
        "bpsn_auc": bpsn_auc(labels, scores, identities),
        "bnsp_auc": bnsp_auc(labels, scores, identities),
    }


def _error_rates(
    labels: ArrayLike, predictions: ArrayLike, identities: Identities, label: int
) -> dict[Any, float]:
    """Share of wrong predictions among the texts with this label, per identity that has some."""
    truth, predicted = _binary("labels", labels), _binary("predictions", predictions)
    groups = memberships(identities)
    _check_lengths(labels=truth, predictions=predicted, **_first_group(groups))
    wrong = predicted != truth
    return {
        term: float(wrong[own].mean())
        for term, about in groups
        if (own := about & (truth == label)).any()
    }


def _equality_difference(
    labels: ArrayLike, predictions: ArrayLike, identities: Identities, label: int
) -> float | None:
    rates = _error_rates(labels, predictions, identities, label)
    own = np.asarray(labels) == label
    if all(about[own].all() for _, about in memberships(identities) if about[own].any()):
        return None
    overall = float((np.asarray(predictions)[own] != label).mean())
    return float(sum(abs(overall - rate) for rate in rates.values()))


def _binary(name: str, values: ArrayLike) -> NDArray[Any]:
    """Labels or predictions, (n,)."""
    found = np.asarray(values)
    bad = ~np.isin(found, (0, 1)) if found.dtype.kind not in "US" else np.ones(found.shape, bool)
    if bad.any():
        place = int(bad.argmax())
        raise ValueError(f"{name} must be 0 or 1, got {found.flat[place]!r} at {place}")
    return found


def _check_lengths(**columns: NDArray[Any]) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"the columns must be of one length, got {found}")


def _first_group(groups: list[tuple[Any, NDArray[np.bool_]]]) -> dict[str, NDArray[np.bool_]]:
    """What has the identities' length, where there is any identity."""
    return {"identities": groups[0][1]} if groups else {}


def _check_terms(identities: Sequence[Any]) -> None:
    several = (tuple, list, set, frozenset)
    terms = (term for one in identities for term in (one if isinstance(one, several) else (one,)))
    kinds = {
        str if issubclass(kind, str) else Number if issubclass(kind, Number | np.generic) else kind
        for kind in set(map(type, terms))
    }
    if len(kinds) > 1 or type(None) in kinds:
        raise ValueError(
            "identities must be texts, or all of one other type, got"
            f" {' and '.join(sorted(kind.__name__ for kind in kinds))}; a text about none has ()"
        )


def _check_finite(scores: ArrayLike) -> None:
    values = np.asarray(scores, float)
    bad = ~np.isfinite(values)
    if bad.any():
        place = int(bad.argmax())
        raise ValueError(
            f"scores must be finite; {int(bad.sum())} of {values.size} are not, the first at"
            f" {place}: {values.flat[place]} (the network has collapsed, or its inputs are not"
            " finite)"
        )


def _over_identities(
    labels: ArrayLike,
    scores: ArrayLike,
    identities: Identities,
    chosen: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[np.bool_]],
) -> float | None:
    """Power mean over identities of the AUC on the texts that are chosen by (is about the identity,
    is toxic).
    """
    toxic, values = _binary("labels", labels).astype(bool), np.asarray(scores)
    groups, areas = memberships(identities), []
    _check_lengths(labels=toxic, scores=values, **_first_group(groups))
    for _, about in groups:
        rows = chosen(about, toxic)
        area = auc(toxic[rows], values[rows])
        if area is not None:
            areas.append(area)
    return power_mean(areas) if areas else None
