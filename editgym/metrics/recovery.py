"""One scale for all attacks on forgetting: the share that each recovers of what forgetting takes
away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Measures = Mapping[str, float | None]


@dataclass(frozen=True)
class Scale:
    """What an attack's result is measured against.

    Attributes:
        chance: What the attack reaches against a network that knows nothing.
        room: How far the unedited network must be from the oracle for a share of the way to mean
            anything.
    """

    chance: float
    room: float = 0.05


# Two standard errors of 2·AUC − 1, √((m + n + 1) / 3mn), of a hundred members and fifty others are
# 0.2: networks that hardly overfit give membership nothing to recover but noise.
_MEMBERSHIP_ROOM = 0.2
# By the attack's metric.
SCALES: Mapping[str, Scale] = {
    "mia_signed": Scale(0.0, _MEMBERSHIP_ROOM),
    "mia_tpr": Scale(0.01, _MEMBERSHIP_ROOM),
    "logit_attack": Scale(0.0),
    "few_image_relearning": Scale(0.5),
    "rounding_8bit": Scale(0.5),
    "rounding_4bit": Scale(0.5),
    "feature_cka": Scale(0.0),
}
RECOVERED, WORST = "_recovered", "worst_attack"


def recovered(
    after: Measures, before: Measures, oracle: Measures | None
) -> dict[str, float | None]:
    """The share that each attack has back of what forgetting takes away, 0–1, under the attack's
    metric with `_recovered`, and the largest as `worst_attack`.

    clip((after − oracle) / (before − oracle), 0, 1): 0 is the network that never saw what was to be
    forgotten, or, where there is none, what chance reaches; 1 is the unedited network.

    Args:
        after: What `attacks` says of the edited network.
        before: The same of the unedited network.
        oracle: The same of the retrained network; None where there is none.

    Returns:
        Shares; None where the attack was not made, or where the unedited network is no further from
        the oracle than the attack's room, so that there is nothing to recover.
    """
    shares: dict[str, float | None] = {}
    for name, scale in SCALES.items():
        own, full = after[name], before[name]
        least = scale.chance if oracle is None else oracle[name]
        if own is None or full is None or least is None or full - least <= scale.room:
            shares[name + RECOVERED] = None
        else:
            shares[name + RECOVERED] = min(1.0, max(0.0, (own - least) / (full - least)))
    known = [share for share in shares.values() if share is not None]
    return shares | {WORST: max(known) if known else None}
