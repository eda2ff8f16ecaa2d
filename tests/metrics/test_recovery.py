"""The one scale of all attacks."""

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from torch import nn

from editgym.data.images import Labelled
from editgym.metrics.attacks import Target, membership
from editgym.metrics.recovery import ATTACKS, recovered, scales

# Many samples, so that membership has little noise.
MANY = scales(5_000, 5_000)


def measures(**values):
    """What every attack reaches: nothing, but for what is given."""
    return dict.fromkeys(ATTACKS) | values


@pytest.mark.parametrize(
    ("after", "share"), [(0.9, 1.0), (0.7, 0.5), (0.5, 0.0), (0.2, 0.0), (0.95, 1.0)]
)
def test_the_share_of_the_way_from_the_oracle(after, share):
    found = recovered(
        measures(logit_attack=after), measures(logit_attack=0.9), measures(logit_attack=0.5), MANY
    )
    assert found["logit_attack_recovered"] == pytest.approx(share)
    assert found["worst_attack"] == found["logit_attack_recovered"]


@pytest.mark.parametrize(
    ("name", "chance"),
    [
        ("mia_signed", 0.0),
        ("mia_tpr", 51 / 5_001),
        ("logit_attack", 0.0),
        ("few_image_relearning", 0.5),
        ("rounding_8bit", 0.5),
        ("rounding_4bit", 0.5),
        ("feature_cka", 0.0),
    ],
)
def test_without_an_oracle_from_chance(name, chance):
    middle = (1 + chance) / 2
    found = recovered(measures(**{name: middle}), measures(**{name: 1.0}), None, MANY)
    assert found[f"{name}_recovered"] == pytest.approx(0.5)
    at_chance = recovered(measures(**{name: chance}), measures(**{name: 1.0}), None, MANY)
    assert at_chance["worst_attack"] == 0


def test_the_worst_attack_is_the_largest_share():
    found = recovered(
        measures(logit_attack=0.2, rounding_4bit=0.8, feature_cka=0.1),
        measures(logit_attack=1.0, rounding_4bit=1.0, feature_cka=1.0),
        None,
        MANY,
    )
    assert found["worst_attack"] == found["rounding_4bit_recovered"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("logit_attack", 0.05),
        ("mia_signed", 1.959964 / 9 + 1 / 3_105),
        ("mia_tpr", 7 / 69 - 1 / 46),
    ],
)
def test_where_there_is_nothing_to_recover_there_is_no_share(name, room):
    """Of 69 members and 45 others the standard error is 1/9; in one order of forty more than seven
    members come before all others."""
    for before, known in ((0.3 + room - 1e-4, False), (0.3 + room + 1e-4, True), (0.1, False)):
        found = recovered(
            measures(**{name: 0.3}),
            measures(**{name: before}),
            measures(**{name: 0.3}),
            scales(69, 45),
        )
        assert (found[f"{name}_recovered"] is not None) is known
        assert (found["worst_attack"] is not None) is known


@pytest.mark.parametrize("missing", ["after", "before", "oracle"])
def test_an_attack_that_was_not_made_has_no_share(missing):
    every = {
        "after": measures(logit_attack=1.0),
        "before": measures(logit_attack=1.0),
        "oracle": measures(logit_attack=0.0),
    }
    assert recovered(**every, every=MANY)["worst_attack"] == 1
    assert recovered(**every | {missing: measures()}, every=MANY)["worst_attack"] is None


@pytest.mark.parametrize("side", ["after", "before", "oracle"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_has_no_share(side, value):
    given = dict.fromkeys(("after", "before", "oracle"), measures(feature_cka=0.5))
    given[side] = measures(feature_cka=value)
    with pytest.raises(
        ValueError, match=f"{side}: feature_cka must be finite or None, got {value}"
    ):
        recovered(**given, every=MANY)


# --- membership's scale depends on the number of samples ------------------------------------------


def in_any_order(members, others):
    """A target whose samples have losses that say nothing of membership."""
    logits = torch.randn(members + others, 2)
    data = Labelled(logits, torch.zeros(len(logits), dtype=torch.long))
    return Target(
        forget=data, retain=data, classes=(0,), images=data,
        members=data[torch.arange(members)], others=data[torch.arange(members, len(logits))],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("members", "others"), [pytest.param(69, 45, marks=pytest.mark.slow), (8, 5), (30, 250)]
)
def test_chance_and_room_are_those_of_networks_that_know_nothing(members, others):
    draws = 250
    drawn = [membership(nn.Identity(), in_any_order(members, others)) for _ in range(draws)]
    for name, values in zip(("mia_signed", "mia_tpr"), np.transpose(drawn), strict=True):
        scale = scales(members, others)[name]
        error = 4 * values.std() / draws**0.5
        assert values.mean() == pytest.approx(scale.chance, abs=error)
        assert np.mean(values > scale.chance + scale.room + 1e-9) <= 0.05
        assert np.mean(values > scale.chance + scale.room / 2) > 0.025, "it is no larger than it is"


@pytest.mark.parametrize(("members", "others"), [(69, 45), (8, 5), (30, 250), (1, 1), (200, 99)])
def test_the_rate_by_chance_is_that_of_scipy(members, others):
    scale = scales(members, others)["mia_tpr"]
    expected = betabinom(members, others // 100 + 1, others - others // 100)
    assert scale.chance == pytest.approx(expected.mean() / members)
    assert scale.chance + scale.room == pytest.approx(expected.ppf(0.975) / members)


def test_the_fewer_samples_the_more_room():
    rooms = [scales(n, n)["mia_signed"].room for n in (3, 10, 100, 10_000)]
    errors = [(7 / 27) ** 0.5, 0.07**0.5, 0.0067**0.5, (20_001 / 3e8) ** 0.5]
    steps = [1 / 9, 1e-2, 1e-4, 1e-8]
    assert rooms == pytest.approx(
        [1.959964 * error + step for error, step in zip(errors, steps, strict=True)]
    )
    assert rooms[0] > 1
    assert all(scales(n, n)["logit_attack"].room == 0.05 for n in (3, 10_000))


@pytest.mark.parametrize("name", ["mia_signed", "mia_tpr"])
def test_noise_below_chance_in_the_oracle_makes_no_scale_wider(name):
    """An oracle is below chance by accident alone."""
    chance = MANY[name].chance
    shares = [
        recovered(
            measures(**{name: 0.4}), measures(**{name: 0.8}), measures(**{name: oracle}), MANY
        )[f"{name}_recovered"]
        for oracle in (chance, chance - 0.01, -0.5)
    ]
    assert shares == pytest.approx([(0.4 - chance) / (0.8 - chance)] * 3)
    nothing = measures(mia_signed=0.1, mia_tpr=0.02), measures(mia_signed=-0.2, mia_tpr=0.0)
    assert recovered(nothing[0], *nothing, scales(69, 45))["worst_attack"] is None


@pytest.mark.parametrize(("members", "others"), [(0, 3), (3, 0)])
def test_no_samples_have_no_scale(members, others):
    with pytest.raises(ValueError, match=f"1 or more samples each, got {members} and {others}"):
        scales(members, others)
