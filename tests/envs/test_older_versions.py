"""What docs/environments/index.md says of version 0: Gymnasium warns of its id, not of its spec."""

import warnings

import gymnasium as gym
import pytest

import editgym  # noqa: F401 - registers the environments


def test_gymnasium_warns_of_an_older_id_and_not_of_its_spec():
    with pytest.warns(DeprecationWarning, match="MaskWorld-v0 is out of date"):
        gym.make("MaskWorld-v0").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        gym.make(gym.spec("MaskWorld-v0")).close()
        warnings.filterwarnings("ignore", ".*is out of date", DeprecationWarning)
        gym.make("MaskWorld-v0").close()
