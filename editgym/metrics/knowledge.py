"""Metrics of a stream of edits of knowledge, from one record per edit: texts and numbers, no model.

θ_0 is the unedited model, θ_i the model right after the step of edit i, θ_T the final one; ŷ is a
greedy answer, y the target.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from editgym.metrics.answers import EXACT, SCORERS, Scorer, mentions
from editgym.metrics.answers import normalized as normalized
from editgym.metrics.edit_record import Asked as Asked
from editgym.metrics.edit_record import EditRecord as EditRecord

_IN_EVERY_FORMAT = ("reliability", "generalization", "locality", "harmonic_mean")
_BY_EVERY_SCORER = frozenset({*_IN_EVERY_FORMAT, "reliability_now", "portability"})


def knowledge_metrics(
    records: Sequence[EditRecord],
    *,
    perplexity_ratio: float | None,
    capability: float | None,
    sites_per_edit: float | None,
    texts_per_edit: float | None = None,
    facts_left_out: float | None = None,
    known_kept: float | None = None,
    first_k: int = 100,
    scorer: Scorer = EXACT,
) -> dict[str, float | None]:
    """The leaderboard's metrics of a stream of edits; None where no record has what a metric needs.

    Every request counts once: a metric over questions is the mean over requests of the mean over
    the request's own questions, and requests without such questions are left out of it. So
    `locality` is not the mean of `locality_near` and `locality_far` where a request has more of one
    kind. A skipped request counts like any other: its fact is not edited. One that a later edit
    overwrites is not wanted at the end, and counts in `reliability_now` alone.

    - What `answer_metrics` has, by the task's scorer; `reliability`, `reliability_now`,
      `generalization`, `portability`, `locality` and `harmonic_mean` by every other scorer too,
      with its name as a suffix: `reliability_contains`.
    - `leakage`: share of same-subject questions whose answer contains n(y) under θ_T, minus that
      share under θ_0; n(·) is `normalized`.
    - `locality_kl`, `tf_efficacy`, `tf_generalization`, `tf_specificity`: means of the records'
      numbers.

    Args:
        records: One per request, in any order.
        perplexity_ratio: Perplexity of θ_T over that of θ_0 on fixed text; passed on.
        capability: Accuracy above chance of θ_T over that of θ_0; passed on.
        sites_per_edit: Mean number of sites that an edit touched; passed on.
        texts_per_edit: Mean number of requests that one edit was taught with; passed on.
        facts_left_out: Questions that were asked without the fact that is near to them, because the
            context has no room for it; passed on.
        known_kept: Share of what θ_0 knows and nobody edits that θ_T still answers; passed on.
        first_k: Number of edits of `first_k_reliability`.
        scorer: The task's own.

    Raises:
        ValueError: `first_k` is not positive.
    """
    found = answer_metrics(records, scorer, first_k)
    score = found.pop("harmonic_mean")
    first = found.pop("first_k_reliability")
    by_scorer = {
        f"{metric}_{other.name}": value
        for other in SCORERS.values()
        if other != scorer
        for metric, value in answer_metrics(records, other).items()
        if metric in _BY_EVERY_SCORER
    }
    records = _holding(records)
    return {
        **found,
        "locality_kl": _mean(r.locality_kl for r in records),
        "leakage": _mean(
            _mean(_leaks(asked, r.target) for asked in r.same_subject) for r in records
        ),
        "perplexity_ratio": perplexity_ratio,
        "capability": capability,
        "known_kept": known_kept,
        "tf_efficacy": _mean(r.tf_efficacy for r in records),
        "tf_generalization": _mean(r.tf_generalization for r in records),
        "tf_specificity": _mean(r.tf_specificity for r in records),
        "first_k_reliability": first,
        "sites_per_edit": sites_per_edit,
        "texts_per_edit": texts_per_edit,
        "facts_left_out": facts_left_out,
        "harmonic_mean": score,
        **by_scorer,
    }


def format_metrics(
    records: Sequence[EditRecord], name: str, scorer: Scorer
) -> dict[str, float | None]:
    """`reliability`, `generalization`, `locality` and `harmonic_mean` of edits in another prompt
    format, with its name as a suffix: `reliability@chat`.

    Args:
        records: One per edit that was asked about in this format.
        name: The format's name.
        scorer: The task's own.
    """
    found = answer_metrics(records, scorer)
    return {f"{metric}@{name}": found[metric] for metric in _IN_EVERY_FORMAT}


def answer_metrics(
    records: Sequence[EditRecord], scorer: Scorer = EXACT, first_k: int = 100
) -> dict[str, float | None]:
    """Metrics of answers, as a scorer compares them; see `knowledge_metrics`.

    "Gives" and "agree" are the scorer's.

    - `reliability`: ŷ_θT(x) gives y; `reliability_now`: the same of θ_i, over all edits;
      `forgetting`: now − final, over those that no later edit overwrites.
    - `generalization`, `portability`: ŷ_θT gives what is expected, on rephrases and on what follows
      from the fact.
    - `locality`: ŷ_θT(u) and ŷ_θ0(u) agree, over near and far questions together; `locality_near`,
      `locality_far`; `locality_known` and `locality_unknown`: of those that θ_0 answers rightly,
      and of the rest.
    - `locality_truth`: ŷ_θT(u) gives what is expected, over near and far questions that θ_0 answers
      rightly.
    - `first_k_reliability`: `reliability` of the first `first_k` edits, or of all where there are
      fewer.
    - `harmonic_mean`: of reliability, generalization and locality; 0 if one of them is 0, None if
      one is None.

    Args:
        records: One per request, in any order.
        scorer: Compares answers.
        first_k: Number of edits of `first_k_reliability`.

    Raises:
        ValueError: `first_k` is not positive.
    """
    if first_k < 1:
        raise ValueError(f"first_k must be 1 or more, got {first_k}")

    def right(asked: Asked) -> float | None:
        return _gives(scorer, asked.after, asked.expected, asked.aliases)

    def knew(asked: Asked) -> bool:
        return bool(_gives(scorer, asked.before, asked.expected, asked.aliases))

    def kept(asked: Asked) -> float | None:
        if asked.after is None or asked.before is None:
            return None
        return float(scorer.agree(asked.after, asked.before, asked.expected))

    def over(
        questions: Callable[[EditRecord], Iterable[Asked]],
        score: Callable[[Asked], float | None],
    ) -> float | None:
        """Mean over requests of the mean over the request's questions."""
        return _mean(_mean(map(score, questions(record))) for record in records)

    def right_away() -> float | None:
        return _mean(_gives(scorer, r.answer_now, r.target, r.aliases) for r in records)

    now = right_away()
    records = _holding(records)
    before = right_away()
    reliability = _mean(_reliable(scorer, r) for r in records)
    generalization = over(lambda r: r.rephrases, right)
    locality = over(_preserved, kept)
    first = sorted(records, key=lambda r: r.edit)[:first_k]
    return {
        "reliability": reliability,
        "reliability_now": now,
        "forgetting": None if before is None or reliability is None else before - reliability,
        "generalization": generalization,
        "portability": over(lambda r: r.portability, right),
        "locality": locality,
        "locality_near": over(lambda r: r.near, kept),
        "locality_far": over(lambda r: r.far, kept),
        "locality_truth": over(_preserved, lambda asked: right(asked) if knew(asked) else None),
        "locality_known": over(_preserved, lambda asked: kept(asked) if knew(asked) else None),
        "locality_unknown": over(_preserved, lambda asked: None if knew(asked) else kept(asked)),
        "first_k_reliability": _mean(_reliable(scorer, r) for r in first),
        "harmonic_mean": _harmonic_mean(reliability, generalization, locality),
    }


def retention_curve(
    records: Sequence[EditRecord], points: int = 20, scorer: Scorer = EXACT
) -> list[list[float]]:
    """Mean final correctness of edits by age: pairs of (age, share answered rightly), youngest
    first.

    An edit's age is the number of edits made since, counted in the stream: 0 for the last. Edits
    are binned by age into at most `points` bins of equal size (to one edit), and a bin's age is the
    mean of its edits', so that streams of one length have the same ages.

    Raises:
        ValueError: `points` is not positive.
    """
    if points < 1:
        raise ValueError(f"points must be 1 or more, got {points}")
    if not records:
        return []
    last = max(record.edit for record in records)
    records = _holding(records)
    if not records:
        return []
    pairs = np.array(
        sorted((last - record.edit, _reliable(scorer, record)) for record in records),
        dtype=np.float64,
    )
    return [own.mean(axis=0).tolist() for own in np.array_split(pairs, min(points, len(pairs)))]


def _holding(records: Sequence[EditRecord]) -> list[EditRecord]:
    """Edits that no later one overwrites."""
    return [record for record in records if record.overwritten_by is None]


def _reliable(scorer: Scorer, record: EditRecord) -> float:
    return float(scorer.gives(record.answer, record.target, record.aliases))


def _gives(
    scorer: Scorer, answer: str | None, expected: str | None, aliases: Sequence[str]
) -> float | None:
    if answer is None or expected is None:
        return None
    return float(scorer.gives(answer, expected, aliases))


def _preserved(record: EditRecord) -> tuple[Asked, ...]:
    return record.near + record.far


def _leaks(asked: Asked, target: str) -> float | None:
    """1 if the target turned up, −1 if it went away, else 0."""
    if asked.before is None or asked.after is None:
        return None
    before, after = (mentions(answer, target) for answer in (asked.before, asked.after))
    return float(after) - float(before)


def _mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are known; None where there is none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _harmonic_mean(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return statistics.harmonic_mean(known) if len(known) == len(parts) else None
