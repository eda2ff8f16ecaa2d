"""The one scale of all attacks."""

import pytest

from editgym.metrics.recovery import SCALES, recovered


def measures(**values):
    """What every attack reaches: nothing, but for what is given."""
    return dict.fromkeys(SCALES) | values


@pytest.mark.parametrize(
    ("after", "share"), [(0.9, 1.0), (0.7, 0.5), (0.5, 0.0), (0.2, 0.0), (0.95, 1.0)]
)
def test_the_share_of_the_way_from_the_oracle(after, share):
    found = recovered(
        measures(logit_attack=after), measures(logit_attack=0.9), measures(logit_attack=0.5)
    )
    assert found["logit_attack_recovered"] == pytest.approx(share)
    assert found["worst_attack"] == found["logit_attack_recovered"]


@pytest.mark.parametrize(
    ("name", "chance"),
    [
        ("mia_signed", 0.0),
        ("mia_tpr", 0.01),
        ("logit_attack", 0.0),
        ("few_image_relearning", 0.5),
        ("rounding_8bit", 0.5),
        ("rounding_4bit", 0.5),
        ("feature_cka", 0.0),
    ],
)
def test_without_an_oracle_from_chance(name, chance):
    middle = (1 + chance) / 2
    found = recovered(measures(**{name: middle}), measures(**{name: 1.0}), None)
    assert found[f"{name}_recovered"] == pytest.approx(0.5)
    at_chance = recovered(measures(**{name: chance}), measures(**{name: 1.0}), None)
    assert at_chance["worst_attack"] == 0


def test_the_worst_attack_is_the_largest_share():
    found = recovered(
        measures(logit_attack=0.2, rounding_4bit=0.8, feature_cka=0.1),
        measures(logit_attack=1.0, rounding_4bit=1.0, feature_cka=1.0),
        None,
    )
    assert found["worst_attack"] == found["rounding_4bit_recovered"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("name", "room"), [("logit_attack", 0.05), ("mia_signed", 0.2), ("mia_tpr", 0.2)]
)
def test_where_there_is_nothing_to_recover_there_is_no_share(name, room):
    for before, known in ((0.3 + room - 0.01, False), (0.3 + room + 0.01, True), (0.1, False)):
        found = recovered(
            measures(**{name: 0.3}), measures(**{name: before}), measures(**{name: 0.3})
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
    assert recovered(**every)["worst_attack"] == 1
    assert recovered(**every | {missing: measures()})["worst_attack"] is None
