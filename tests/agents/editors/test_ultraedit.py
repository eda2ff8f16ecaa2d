"""UltraEdit: over what its keys and gradients are standardised."""

import gymnasium as gym
import pytest
import torch

from agents.catalogue import make_agent
from editgym.weights.closed_form import RunningStandardization, ultraedit

STEP = 1e-2


def edited(stream_env, **settings):
    """The environment after three steps, and its journal's updates by step and site."""
    env = stream_env(
        sites=["model.layers.[23].mlp.up_proj", "model.layers.[23].mlp.down_proj"],
        horizon=3,
        split="test",
    )
    journal = make_agent("ultraedit", step_size=STEP, **settings).edit(env)
    updates = {(entry.step, entry.site): entry.update for entry in journal}
    return env.unwrapped, updates


def by_hand(env, updates, key_of):
    """What the updates should be, with statistics kept by `key_of` a site; each step's capture is
    taken with the journal's own edits before it.
    """
    env.reset()
    statistics = {}
    found = {}
    for step in range(3):
        capture = env.process.capture
        captured = list(zip(env.process.sites, capture.keys, capture.gradients, strict=True))
        for site, keys, gradients in captured:
            own = statistics.setdefault(
                key_of(site),
                tuple(RunningStandardization(size) for size in reversed(site.shape)),
            )
            own[0].update(keys)
            own[1].update(gradients)
        for site, keys, gradients in captured:
            of_keys, of_gradients = statistics[key_of(site)]
            found[step, site.name] = ultraedit(keys, of_keys(keys), of_gradients(gradients), STEP)
        env.process.step([updates[step, site.name] for site in env.process.sites])
    return found


@pytest.mark.parametrize(
    ("statistics", "key_of"), [("site", lambda site: site.name), ("shape", lambda site: site.shape)]
)
def test_keys_and_gradients_are_standardised_by_site_or_by_shape(stream_env, statistics, key_of):
    env, updates = edited(stream_env, statistics=statistics)
    expected = by_hand(env, updates, key_of)
    assert updates.keys() == expected.keys()
    for place, update in updates.items():
        torch.testing.assert_close(
            update.matrix(), expected[place].matrix(), rtol=1e-4, atol=1e-7, msg=str(place)
        )


def test_the_two_differ(stream_env):
    (_, own), (_, pooled) = (edited(stream_env, statistics=name) for name in ("site", "shape"))
    for place, update in own.items():
        difference = (update.matrix() - pooled[place].matrix()).norm()
        assert difference > 0.01 * update.matrix().norm()


def test_pooled_statistics_survive_an_interruption(stream_spec, interrupted_edit, tmp_path):
    def make(folder):
        env = gym.make(stream_spec(split="validation"), journal_folder=str(tmp_path / folder))
        env.reset(seed=0)
        return env

    agent = make_agent("ultraedit", step_size=STEP, statistics="shape")
    whole = agent.edit(make("whole"), tmp_path / "whole state")
    interrupted_edit(agent, make("parts"), tmp_path / "state", at=2)
    again = gym.make(stream_spec(split="validation"), journal_folder=str(tmp_path / "parts"))
    for one, other in zip(whole, agent.edit(again, tmp_path / "state"), strict=True):
        assert torch.equal(one.update.a, other.update.a)
        assert torch.equal(one.update.b, other.update.b)


def test_another_choice_is_refused():
    with pytest.raises(ValueError, match="statistics must be one of 'site', 'shape', got 'model'"):
        make_agent("ultraedit", statistics="model")
