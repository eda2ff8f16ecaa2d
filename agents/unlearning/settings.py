"""Settings of the unlearning algorithms as tables: what they take, and what was chosen for which
task.

`CHOSEN` is the best of the grids of `benchmarks.tuning.unlearning`, by the harmonic mean of retain
accuracy and drop in forget accuracy on the validation split of networks that no report uses (model
seeds from 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SGD: Mapping[str, Any] = {"epochs": 5, "learning_rate": 0.01, "momentum": 0.9, "batch_size": 64}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "fine_tune": _SGD,
    "gradient_ascent": _SGD,
    "neggrad_plus": {**_SGD, "beta": 0.95},
    "random_labels": {**_SGD, "retain_weight": 1.0},
    "ssd": {"alpha": 10.0, "dampening": 1.0, "batch_size": 64},
    "salun": {**_SGD, "retain_weight": 1.0, "share": 0.5},
    "scrub": {**_SGD, "ascent_epochs": 3, "alpha": 1.0, "gamma": 1.0},
}

SITE = "-site"
NAMES = (*DEFAULTS, *(f"{name}{SITE}" for name in DEFAULTS))

# By task, then by algorithm, `-site` where only the sites are open; a task that is not here has
# `OTHER_TASKS`' row.
CHOSEN: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "unlearning/digits": {
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
    },
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
}
OTHER_TASKS = "unlearning/mnist"


def settings_for(task: str, name: str) -> dict[str, Any]:
    """The settings of an algorithm for a task, a new dict."""
    chosen = CHOSEN.get(task, CHOSEN.get(OTHER_TASKS, {}))
    return {**DEFAULTS[name.removesuffix(SITE)], **chosen.get(name, {})}
