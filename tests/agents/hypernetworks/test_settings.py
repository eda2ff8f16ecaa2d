"""Settings: their ranges, what they resolve to in an environment, and how they are told."""

import pytest

from agents.catalogue import make_agent
from agents.hypernetworks.mend_malmen import Malmen
from agents.hypernetworks.rledit import RLEdit
from agents.hypernetworks.settings import Learning

NAMES = ["rledit", "malmen", "mend"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequences", -1),
        ("sequences", 1.5),
        ("sequences", True),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("step_learning_rate", "fast"),
        ("update_every", 0),
        ("update_every", 0.5),
        ("max_grad_norm", 0),
        ("max_grad_norm", float("inf")),
        ("validate_every", -1),
        ("validate_every", None),
        ("patience", 0),
        ("patience", 2.0),
    ],
)
def test_bad_settings_are_named_with_their_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {value!r}$"):
        Learning(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        RLEdit(**{name: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mode", "public"),
        ("rule", "rome"),
        ("passes", 0),
        ("passes", 1.0),
        ("step_size", 0.0),
        ("step_size", -1),
        ("step_size", float("nan")),
        ("ridge", 0),
        ("ridge", None),
        ("blocks", 0),
        ("rank", 0),
        ("rank", True),
        ("sequences", -1),
        ("patience", 0),
        ("learning_rate", float("inf")),
    ],
)
def test_an_argument_out_of_range_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {value!r}$"):
        RLEdit(**{argument: value})


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_named(name):
    with pytest.raises(ValueError, match=r"\['sequence'\].*|sequence.*sequences"):
        make_agent(name, sequence=3)


def test_in_shiftworld_it_learns_as_many_episodes_as_asked_or_released():
    assert (
        RLEdit().learning_in_worlds().sequences == Malmen().learning_in_worlds().sequences == 1_000
    )
    assert RLEdit(sequences=7).learning_in_worlds().sequences == 7
    assert RLEdit(mode="released").learning_in_worlds().sequences == 1
    assert RLEdit(mode="released").learning_in_worlds().train_env == {}
    for setting in ({"validate_every": 3}, {"train_env": {"decay": 0.5}}):
        with pytest.raises(
            ValueError, match=rf"^{next(iter(setting))} must be left out in ShiftWorld"
        ):
            RLEdit(**setting).learning_in_worlds()
