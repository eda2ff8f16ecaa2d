"""Settings of the unlearning algorithms as tables: what they take, and what was chosen for which
task.

`CHOSEN` is the best of grids, by the harmonic mean of retain accuracy and drop in forget accuracy
on the validation split of networks that no report uses (model seeds from 10); by the same score
`agents.tune` finds settings for other tasks. Where nothing was chosen, nobody knows how large a
step may be: learning rates, and the threshold of `ssd`, are then looked for on the validation split
at every edit (`agents.unlearning.search`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from agents.configured import Settings, setting
from agents.tune.search import Choice, LogUniform, Uniform, Whole
from editgym.checks import Check, at_least, is_finite, optional, whole, within


def _usual_rate(env: gym.Env) -> float:
    """The learning rate that `agents.tune` begins with where none is given."""
    return 0.01


def _usual_threshold(env: gym.Env) -> float:
    """The threshold that `agents.tune` begins with where none is given."""
    return 10.0


@dataclass(frozen=True, kw_only=True)
class DescentSettings(Settings):
    """The settings of all algorithms that take steps of SGD; all that `fine_tune` and
    `gradient_ascent` have.

    Attributes:
        epochs: Passes over D_r, or over D_f where D_r is not used.
        learning_rate: SGD's learning rate. None: steps of a share of the weights' length in place
            of SGD's, each of three shares is tried, and the best state on validation data is kept.
        momentum: SGD's momentum.
        batch_size: Samples a step.
    """

    epochs: int = setting(5, whole(0), search=Whole(1, 10))
    learning_rate: float | None = setting(
        0.01, optional(at_least(0)), search=LogUniform(1e-4, 0.1, where_none=_usual_rate)
    )
    momentum: float = setting(0.9, at_least(0))
    batch_size: int = setting(64, whole(1))


@dataclass(frozen=True, kw_only=True)
class NegGradSettings(DescentSettings):
    """The settings of `neggrad_plus`.

    Attributes:
        beta: β, the weight of the retained data's loss; 1 − β is that of the forgotten data's.
    """

    beta: float = setting(0.95, within(0, 1), search=Uniform(0.8, 1))


@dataclass(frozen=True, kw_only=True)
class RelabelSettings(DescentSettings):
    """The settings of `random_labels`.

    Attributes:
        retain_weight: Weight of the retained data's loss.
    """

    retain_weight: float = setting(1.0, at_least(0), search=Choice((0.0, 1.0)))


@dataclass(frozen=True, kw_only=True)
class SalunSettings(RelabelSettings):
    """The settings of `salun`.

    Attributes:
        share: Share of the weights that may change, the most salient ones.
    """

    share: float = setting(
        0.5,
        Check(lambda v: is_finite(v) and 0 < v <= 1, "greater than 0 and at most 1"),
        search=Uniform(0.1, 1),
    )


@dataclass(frozen=True, kw_only=True)
class ScrubSettings(DescentSettings):
    """The settings of `scrub`.

    Attributes:
        ascent_epochs: Epochs that begin with a pass away from the teacher on D_f.
        alpha: α, the weight of the divergence from the teacher on D_r.
        gamma: γ, the weight of the cross-entropy on D_r.
    """

    ascent_epochs: int = setting(3, whole(0), search=Whole(1, 3))
    alpha: float = setting(1.0, at_least(0))
    gamma: float = setting(1.0, at_least(0), search=LogUniform(0.5, 10))


@dataclass(frozen=True, kw_only=True)
class SsdSettings(Settings):
    """The settings of `ssd`.

    Attributes:
        alpha: α, how many times more a weight must matter to D_f than to D_r to be dampened. None:
            seven from 1 to 100 are tried, each with λ and with λ/10, and the best on validation
            data is kept.
        dampening: λ, the strength of the dampening.
        batch_size: Samples whose gradients are squared together.
    """

    alpha: float | None = setting(
        10.0, optional(at_least(0)), search=LogUniform(1, 100, where_none=_usual_threshold)
    )
    dampening: float = setting(1.0, at_least(0), search=LogUniform(0.05, 1))
    batch_size: int = setting(64, whole(1))


KINDS: Mapping[str, type[Settings]] = {
    "fine_tune": DescentSettings,
    "gradient_ascent": DescentSettings,
    "neggrad_plus": NegGradSettings,
    "random_labels": RelabelSettings,
    "ssd": SsdSettings,
    "salun": SalunSettings,
    "scrub": ScrubSettings,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {name: kind().as_dict() for name, kind in KINDS.items()}

SITE = "-site"
NAMES = (*DEFAULTS, *(f"{name}{SITE}" for name in DEFAULTS))

_DIGITS: Mapping[str, Mapping[str, Any]] = {
    "fine_tune": {"epochs": 10, "learning_rate": 0.03},
    "gradient_ascent": {"epochs": 3, "learning_rate": 3e-3},
    "neggrad_plus": {"epochs": 10, "learning_rate": 3e-3, "beta": 0.99},
    "random_labels": {"epochs": 5, "learning_rate": 3e-3},
    "ssd": {"alpha": 25.0},
    "salun": {"epochs": 5, "learning_rate": 3e-3},
    "scrub": {"epochs": 10, "learning_rate": 3e-3, "ascent_epochs": 3, "gamma": 5.0},
    "fine_tune-site": {"epochs": 10, "learning_rate": 0.1},
    "gradient_ascent-site": {"epochs": 10, "learning_rate": 2e-3},
    "neggrad_plus-site": {"epochs": 10, "learning_rate": 0.01, "beta": 0.95},
    "random_labels-site": {"epochs": 5, "learning_rate": 3e-3},
    "ssd-site": {"alpha": 2.0},
    "salun-site": {"epochs": 5, "learning_rate": 3e-3},
    "scrub-site": {"epochs": 10, "learning_rate": 0.01, "ascent_epochs": 3, "gamma": 5.0},
}
# By task, then by algorithm, `-site` where only the sites are open.
CHOSEN: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "unlearning/digits": _DIGITS,
    "unlearning/mnist": {
        "fine_tune": {"epochs": 1, "learning_rate": 0.03},
        "gradient_ascent": {"epochs": 2, "learning_rate": 1e-3},
        "neggrad_plus": {"epochs": 1, "learning_rate": 0.01, "beta": 0.99},
        "random_labels": {"epochs": 1, "learning_rate": 1e-3},
        "ssd": {"alpha": 10.0},
        "salun": {"epochs": 1, "learning_rate": 1e-3},
        "scrub": {"epochs": 2, "learning_rate": 0.01, "ascent_epochs": 1, "gamma": 5.0},
        "fine_tune-site": {"epochs": 1, "learning_rate": 0.1},
        "gradient_ascent-site": {"epochs": 1, "learning_rate": 0.01},
        "neggrad_plus-site": {"epochs": 1, "learning_rate": 3e-3, "beta": 0.9},
        "random_labels-site": {"epochs": 3, "learning_rate": 3e-3},
        "ssd-site": {"alpha": 5.0, "dampening": 0.1},
        "salun-site": {"epochs": 3, "learning_rate": 3e-3},
        "scrub-site": {"epochs": 2, "learning_rate": 0.03, "ascent_epochs": 1, "gamma": 5.0},
    },
    "unlearning/cifar10": {
        "fine_tune": {"epochs": 1, "learning_rate": 0.01},
        "gradient_ascent": {"epochs": 2, "learning_rate": 2e-4},
        "neggrad_plus": {"epochs": 1, "learning_rate": 3e-3, "beta": 0.99},
        "random_labels": {"epochs": 1, "learning_rate": 1e-3},
        "ssd": {"alpha": 50.0},
        "salun": {"epochs": 1, "learning_rate": 1e-3},
        "scrub": {"epochs": 1, "learning_rate": 3e-3, "ascent_epochs": 1, "gamma": 5.0},
        "fine_tune-site": {"epochs": 1, "learning_rate": 0.03},
        "gradient_ascent-site": {"epochs": 1, "learning_rate": 0.01},
        "neggrad_plus-site": {"epochs": 1, "learning_rate": 3e-3, "beta": 0.9},
        "random_labels-site": {"epochs": 1, "learning_rate": 3e-3},
        "ssd-site": {"alpha": 25.0},
        "salun-site": {"epochs": 1, "learning_rate": 3e-4},
        "scrub-site": {"epochs": 1, "learning_rate": 0.03, "ascent_epochs": 1, "gamma": 5.0},
    },
    # Fine-tuning by the harmonic mean of clean accuracy and drop in the attack's success; the rest
    # is that of digits, whose kind of network and images these are.
    "unlearning/backdoor": {**_DIGITS, "fine_tune": {"epochs": 50, "learning_rate": 0.03}},
}
_SEARCHED: Mapping[str, Any] = {"epochs": 5, "learning_rate": None}
# What has no scale is as in the tasks above.
ELSEWHERE: Mapping[str, Mapping[str, Any]] = {
    "fine_tune": _SEARCHED,
    "gradient_ascent": {**_SEARCHED, "epochs": 10},
    "neggrad_plus": {**_SEARCHED, "beta": 0.99},
    "random_labels": _SEARCHED,
    "ssd": {"alpha": None},
    "salun": _SEARCHED,
    "scrub": {**_SEARCHED, "ascent_epochs": 3, "gamma": 5.0},
    "neggrad_plus-site": {**_SEARCHED, "beta": 0.9},
}


def tuned_for(task: str, name: str) -> Mapping[str, Any]:
    """The values that were chosen for an algorithm in a task, or else what is safe in any."""
    if task in CHOSEN:
        return CHOSEN[task].get(name, {})
    return ELSEWHERE.get(name, ELSEWHERE.get(name.removesuffix(SITE), {}))
