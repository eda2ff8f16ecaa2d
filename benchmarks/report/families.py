"""The families of metrics: one row each, which everything that knows a metric's name reads.

A metric of a row may be a variant of one that is named here: `reliability@chat` is the reliability
in the prompt format `chat`, `reliability_squad` the one that the scorer `squad` gives, and
`reliability_squad@chat` both. Only the scorers of a metric's family make a variant of it; a key
that no family knows is kept and shown as it is, without a better side.

A family of one's own is one more row, `FAMILIES["name"] = Family(...)`, in the module of the suite
or of the task that has such metrics. It may share names with others: a row's family is the one that
has the most of its metrics, and decides what is better.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from editgym.metrics.answers import SCORERS
from editgym.metrics.recovery import ATTACKS, RECOVERED, WORST

Direction = Literal["higher", "lower"]
Metrics = Mapping[str, float | None]

SCORE = "harmonic_mean"  # what agents are sorted and ranked by
BEFORE = "_before"  # ends the name of what was measured before the edit
_ABBREVIATIONS = ("MIA", "TPR", "CKA", "KL", "TF", "AUC", "FPED", "FNED", "BPSN", "BNSP")
_WRITTEN = {word.lower(): word for word in _ABBREVIATIONS}


@dataclass(frozen=True)
class Family:
    """Metrics that are measured together, on tasks of one kind.

    Attributes:
        name: The kind of task, as the part of a task's name before the slash.
        directions: Every metric's better side, in the order of tables; None where a metric only
            describes.
        score: What agents are ranked by, from 0 to 1, from a row's metrics; None where a part of it
            is missing, or is no share. It stands in tables and reports as `harmonic_mean`.
        score_words: What the score is the harmonic mean of.
        trade_off: What an agent gives up (x) for what it gains (y), or the other way round.
        parts: The metrics that the score is made of, which stand beside it in short tables.
        scorers: The names of the scorers that its metrics have variants by.
    """

    name: str
    directions: Mapping[str, Direction | None]
    score: Callable[[Metrics], float | None]
    score_words: str
    trade_off: tuple[str, str]
    parts: tuple[str, ...] = ()
    scorers: Collection[str] = ()


class Key(NamedTuple):
    """A metric's key, taken apart.

    Attributes:
        metric: The metric's name in its family.
        scorer: Who judged the answers; None for the family's own way.
        format: The prompt format; None for the plain one.
    """

    metric: str
    scorer: str | None = None
    format: str | None = None


def _measured(
    *names: str, better: Direction | None, before: bool = False
) -> dict[str, Direction | None]:
    """Metrics with one better side, each followed by the same before the edit where asked for."""
    found: dict[str, Direction | None] = {}
    for name in names:
        found[name] = better
        if before:
            found[name + BEFORE] = None
    return found


def _attacks() -> dict[str, Direction | None]:
    """What attacks on forgetting reach, and the shares that they recover.

    Only shares have a better side: a network that never saw the class is what an edit should look
    like, and attacks do not reach nothing against it.
    """
    return {
        **_measured(WORST, *(name + RECOVERED for name in ATTACKS), better="lower"),
        **_measured(*ATTACKS, better=None, before=True),
        **_measured("logit_attack_accuracy", better=None),
    }


def _harmonic(parts: Iterable[float | None]) -> float | None:
    """Their harmonic mean; None where one is missing, or below 0, of which there is none."""
    every = list(parts)
    known = [part for part in every if part is not None and part >= 0]
    return statistics.harmonic_mean(known) if len(known) == len(every) else None


def _unlearning_score(metrics: Metrics) -> float | None:
    """Harmonic mean of retain accuracy and the drop in forget accuracy (the H-Mean of Zhao et al.
    2024, "Continual Forgetting for Pre-trained Vision Models", arXiv 2403.11530), so that no side
    of the trade-off can buy the other.
    """
    return _harmonic((metrics.get("retain_accuracy"), _drop(metrics, "forget_accuracy")))


def _backdoor_score(metrics: Metrics) -> float | None:
    """Harmonic mean of clean accuracy and the drop in the attack's success, as in unlearning."""
    return _harmonic((metrics.get("clean_accuracy"), _drop(metrics, "attack_success_rate")))


def _drop(metrics: Metrics, key: str) -> float | None:
    """By how much a metric has fallen, at least 0."""
    after, before = metrics.get(key), metrics.get(key + BEFORE)
    return None if after is None or before is None else max(0.0, before - after)


UNLEARNING = Family(
    "unlearning",
    {
        **_measured("retain_accuracy", better="higher", before=True),
        **_measured("forget_accuracy", better="lower", before=True),
        # An agent that forgets one class of ten as asked loses a tenth of it.
        **_measured("test_accuracy", better=None, before=True),
        **_measured("mia_advantage", better="lower"),
        **_measured("probe_accuracy", better="lower", before=True),
        **_measured("relearn_steps", better="higher"),
        **_measured("oracle_gap", better="lower"),
        **_attacks(),
        **_measured("weights_changed", "weights_changed_norm", better=None),
    },
    _unlearning_score,
    "retain accuracy and the drop in forget accuracy",
    ("forget_accuracy", "retain_accuracy"),
    ("retain_accuracy", "forget_accuracy"),
)
DEBIASING = Family(
    "debiasing",
    {
        **_measured("general_accuracy", "unbiased_accuracy", better="higher", before=True),
        **_measured("fped", "fned", "equalized_odds_gap", better="lower", before=True),
        **_measured("worst_group_accuracy", better="higher", before=True),
        **_measured("flip_rate", better="lower", before=True),
        **_measured("subgroup_auc", "bpsn_auc", "bnsp_auc", better="higher", before=True),
    },
    lambda metrics: _harmonic(
        metrics.get(key) for key in ("general_accuracy", "unbiased_accuracy")
    ),
    "general and unbiased accuracy",
    ("general_accuracy", "unbiased_accuracy"),
    ("general_accuracy", "unbiased_accuracy"),
)
BACKDOOR = Family(
    "backdoor",
    {
        **_measured("clean_accuracy", better="higher", before=True),
        **_measured("attack_success_rate", better="lower", before=True),
        # A square that hides a corner costs some accuracy even where it means nothing.
        **_measured("triggered_accuracy", better=None, before=True),
    },
    _backdoor_score,
    "clean accuracy and the drop in attack success rate",
    ("clean_accuracy", "attack_success_rate"),
    ("clean_accuracy", "attack_success_rate"),
)
KNOWLEDGE = Family(
    "knowledge",
    {
        **_measured("reliability", "reliability_now", better="higher"),
        **_measured("forgetting", better="lower"),
        **_measured("generalization", "portability", better="higher"),
        **_measured("locality", "locality_near", "locality_far", "locality_truth", better="higher"),
        **_measured("locality_known", "locality_unknown", better="higher"),
        **_measured("locality_kl", "leakage", "perplexity_ratio", better="lower"),
        **_measured("capability", "known_kept", better="higher"),
        **_measured("tf_efficacy", "tf_generalization", "tf_specificity", better="higher"),
        **_measured("first_k_reliability", better="higher"),
        **_measured("sites_per_edit", "texts_per_edit", "facts_left_out", better=None),
        **_measured(SCORE, better="higher"),
    },
    lambda metrics: metrics.get(SCORE),
    "reliability, generalization and locality",
    ("locality", "reliability"),
    ("reliability", "generalization", "locality"),
    SCORERS,
)
FAMILIES: dict[str, Family] = {
    family.name: family for family in (UNLEARNING, BACKDOOR, DEBIASING, KNOWLEDGE)
}


def parse(key: str, family: str | None = None) -> Key:
    """A metric's key, `metric[_scorer][@format]`, taken apart; a key that no family knows is a
    metric of its own.

    Args:
        key: The key.
        family: The family of its row, whose names go before those of the others.
    """
    name, _, form = key.partition("@")
    own: Iterable[Family] = () if family is None else (FAMILIES[family],)
    for families in (own, FAMILIES.values()):
        if (found := _longest_known(name, families)) is not None:
            return Key(*found, form or None)
    return Key(name, None, form or None)


def _longest_known(name: str, families: Iterable[Family]) -> tuple[str, str | None] | None:
    """The longest metric of these families that a name is, or begins with before an underscore and
    a scorer of the metric's family; and that scorer.
    """
    metric, more = name, "_"
    while more:
        scorer = name[len(metric) + 1 :] or None
        for family in families:
            known = metric == SCORE or metric in family.directions
            if known and (scorer is None or scorer in family.scorers):
                return metric, scorer
        metric, more, _ = metric.rpartition("_")
    return None


def direction(key: str, family: str | None = None) -> Direction | None:
    """A metric's better side; None where it only describes.

    Args:
        key: The metric's key.
        family: The family of its row, which decides where several have a metric of this name.
    """
    metric = parse(key, family).metric
    if metric == SCORE:
        return "higher"
    if family is not None and metric in FAMILIES[family].directions:
        return FAMILIES[family].directions[metric]
    found = (other.directions.get(metric) for other in FAMILIES.values())
    return next((better for better in found if better is not None), None)


def family_of(metrics: Iterable[str]) -> str | None:
    """The family that has the most of a row's metrics, of several the first; None where none has
    any. Families may share names.
    """
    keys = list(metrics)
    counts = {
        name: sum(parse(key, name).metric in family.directions for key in keys)
        for name, family in FAMILIES.items()
    }
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None


def ordered(keys: Iterable[str], family: str | None) -> list[str]:
    """The score, then these keys, each once: in the family's order, a metric before its variants,
    and last what the family does not know.
    """
    names = [] if family is None else list(FAMILIES[family].directions)
    own = [key for key in dict.fromkeys(keys) if key != SCORE]
    place = {name: index for index, name in enumerate(names)}
    return [SCORE, *sorted(own, key=lambda key: place.get(parse(key, family).metric, len(names)))]


def score(metrics: Metrics, family: str | None) -> float | None:
    """What an agent is ranked by; None where the family has none or a part of it is missing."""
    return None if family is None else FAMILIES[family].score(metrics)


def is_before(key: str) -> bool:
    """Whether a metric was measured before the edit."""
    return parse(key).metric.endswith(BEFORE)


def label(key: str, family: str | None = None) -> str:
    """A metric's name in words, with an arrow towards the better values.

    Args:
        key: The metric's key.
        family: The family of its row.
    """
    metric, scorer, form = parse(key, family)
    words = " ".join(_WRITTEN.get(word, word) for word in metric.split("_"))
    variant = ", ".join(part for part in (scorer, form) if part)
    arrow = {"higher": " ↑", "lower": " ↓"}.get(direction(key, family) or "", "")
    return words + (f" ({variant})" if variant else "") + arrow
