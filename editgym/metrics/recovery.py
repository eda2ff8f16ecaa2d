"""One scale for all attacks on forgetting: the share that each recovers of what forgetting takes
away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

Measures = Mapping[str, float | None]

FALSE_POSITIVES = 0.01  # at which the true-positive rate of membership is told


@dataclass(frozen=True)
class Scale:
    """What an attack's result is measured against.

    Attributes:
        chance: What the attack reaches against a network that knows nothing.
        room: How far the unedited network must be from the oracle for a share of the way to mean
            anything.
        exchangeable: Whether the oracle saw as little of what the attack looks for as of what it is
            compared with, so that it is at chance and everything else that is measured of it is
            noise.
    """

    chance: float
    room: float = 0.05
    exchangeable: bool = False

    def least(self, oracle: float) -> float:
        """Where the way from the oracle to the unedited network begins, by what is measured of the
        oracle. Noise below chance makes the way no longer.
        """
        return max(self.chance, oracle) if self.exchangeable else oracle


_FIXED: Mapping[str, Scale] = {
    "logit_attack": Scale(0.0),
    "few_image_relearning": Scale(0.5),
    "rounding_8bit": Scale(0.5),
    "rounding_4bit": Scale(0.5),
    "feature_cka": Scale(0.0),
}
# The metrics that have a scale; that of membership depends on the number of samples.
ATTACKS = ("mia_signed", "mia_tpr", *_FIXED)
# Membership's room: so many networks exceed it by chance where there is nothing to tell.
_LEVEL = 0.025
RECOVERED, WORST = "_recovered", "worst_attack"


def scales(members: int, others: int) -> dict[str, Scale]:
    """The scale of every attack in `ATTACKS`.

    A network that never saw a sample ranks members and others in any order with one probability.
    Membership's room is what one such network in forty exceeds. Of m members and n others,
    2·AUC − 1 is then close to normal with the mean 0 and the standard error √((m + n + 1) / 3mn)
    (Mann and Whitney 1947, Ann. Math. Stat. 18, section 4), but in steps of 2 / mn, of which half a
    one is added. The true-positive rate is the share of members above the (k + 1)-th largest of the
    others, k = ⌊n/100⌋, whose mean is (k + 1) / (n + 1); how many they are is a negative
    hypergeometric number (Johnson, Kemp and Kotz 2005, Univariate Discrete Distributions, section
    6.2.2). So 69 members and 45 others need 0.22 of 2·AUC − 1, ten of each 0.53, and three of each
    can show nothing.

    Args:
        members: Samples that the unedited network was trained on, that membership is told of.
        others: Samples that they are told from.

    Raises:
        ValueError: There is no sample of one of the kinds.
    """
    if min(members, others) < 1:
        raise ValueError(
            f"members and others must be 1 or more samples each, got {members} and {others}"
        )
    error = math.sqrt((members + others + 1) / (3 * members * others))
    room = NormalDist().inv_cdf(1 - _LEVEL) * error + 1 / (members * others)
    let_pass = math.floor(FALSE_POSITIVES * others)
    chance = (let_pass + 1) / (others + 1)
    most = _rate_by_chance(members, others, let_pass)
    return {
        "mia_signed": Scale(0.0, room, exchangeable=True),
        "mia_tpr": Scale(chance, most - chance, exchangeable=True),
        **_FIXED,
    }


def recovered(
    after: Measures, before: Measures, oracle: Measures | None, every: Mapping[str, Scale]
) -> dict[str, float | None]:
    """The share that each attack has back of what forgetting takes away, 0–1, under the attack's
    metric with `_recovered`, and the largest as `worst_attack`.

    clip((after − oracle) / (before − oracle), 0, 1): 0 is the network that never saw what was to be
    forgotten, or, where there is none, what chance reaches; 1 is the unedited network.

    Args:
        after: What `attacks` says of the edited network.
        before: The same of the unedited network.
        oracle: The same of the retrained network; None where there is none.
        every: What each is measured against: `scales`.

    Returns:
        Shares; None where the attack was not made, or where the unedited network is no further from
        the oracle than the attack's room, so that there is nothing to recover.

    Raises:
        ValueError: A number is not finite.
    """
    for name in every:
        for side, measures in {"after": after, "before": before, "oracle": oracle or {}}.items():
            if not math.isfinite(measures.get(name) or 0.0):
                raise ValueError(f"{side}: {name} must be finite or None, got {measures[name]}")
    shares: dict[str, float | None] = {}
    for name, scale in every.items():
        own, full = after[name], before[name]
        reached = scale.chance if oracle is None else oracle[name]
        least = None if reached is None else scale.least(reached)
        if own is None or full is None or least is None or full - least <= scale.room:
            shares[name + RECOVERED] = None
        else:
            shares[name + RECOVERED] = min(1.0, max(0.0, (own - least) / (full - least)))
    known = [share for share in shares.values() if share is not None]
    return shares | {WORST: max(known) if known else None}


def _rate_by_chance(members: int, others: int, let_pass: int) -> float:
    """The true-positive rate that a share of `_LEVEL` of all orders exceeds at most, where
    `let_pass` of the others may be taken for members.
    """
    orders, below = _log_choose(members + others, others), 0.0
    for found in range(members):
        log_orders = _log_choose(found + let_pass, let_pass) + _log_choose(
            members - found + others - let_pass - 1, others - let_pass - 1
        )
        below += math.exp(log_orders - orders)
        if below >= 1 - _LEVEL:
            return found / members
    return 1.0


def _log_choose(total: int, chosen: int) -> float:
    """The logarithm of a binomial coefficient."""
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
