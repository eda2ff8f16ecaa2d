"""What may stand in a journal, by the access of the agent that made it."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from benchmarks.harness.journals import ForbiddenEditError, check_journal
from editgym.envs.protocol import edit_env, gradient_stream, open_env
from editgym.weights import DenseUpdate, EditJournal, LowRankFactors, Shift, SiteEdit
from editgym.weights.journal import Codebook, Prepend, Remember, ReplaceTensors, Skip

ACCESSES = ("reward", "gradient", "data", "oracle")
SMALL_STREAM = {"horizon": 2, "edits_per_step": 2, "back_depth": 1}


def refusals(env, entries):
    """By access, what is said of a journal with these entries; nothing where it is allowed."""
    journal, said = EditJournal(edit_env(env).journal.base_hash, entries), {}
    for access in ACCESSES:
        try:
            check_journal(env, journal, access)
        except ForbiddenEditError as error:
            said[access] = str(error)
    return said


def world(env_id="ShiftWorld-v1", **arguments):
    env = gym.make(f"editgym:{env_id}", **arguments)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize("env_id", ["MaskWorld-v0", "ShiftWorld-v0", "MaskWorld-v1"])
@pytest.mark.parametrize("sites", [["fc2"], ["fc1", "fc2"]])
def test_whatever_steps_make_is_allowed_at_the_edges_of_the_box_too(env_id, sites):
    env = world(env_id, episode_length=3, sites=sites)
    shape = env.action_space.shape
    for action in (np.zeros(shape), np.ones(shape), np.random.default_rng(0).uniform(-1, 1, shape)):
        env.step(action.astype(np.float32))
    assert refusals(env, edit_env(env).journal.entries) == {}


def test_no_edit_is_allowed():
    assert refusals(world(), []) == {}


BLACK_BOX = {"reward", "gradient"}


@pytest.mark.parametrize(
    ("change", "refused", "message"),
    [
        ({"site": "fc3"}, {*BLACK_BOX, "data"}, "site fc3 is not open; open are fc2"),
        ({"operator": Shift(1.0)}, BLACK_BOX, "its operator is Shift.limit=1.0., the environ"),
        ({"bound": None}, BLACK_BOX, "rank full and bound 1.0, .* rank full and bound None"),
        ({"d": 1.01}, BLACK_BOX, "a number of size 1.01, outside"),
        ({"d": float("nan")}, BLACK_BOX, "a number of size nan, outside"),
        ({"step": 5}, set(), ""),
    ],
)
def test_an_edit_that_is_no_action_is_refused_to_who_may_only_act(change, refused, message):
    env = world()
    (site,) = open_env(env).network.sites
    own = {"site": "fc2", "operator": Shift(0.05), "bound": 1.0, "d": 0.5, "step": 0, **change}
    update = DenseUpdate(torch.full(site.shape, own["d"]), own["bound"])
    said = refusals(env, [SiteEdit(own["site"], own["operator"], update, own["step"])])
    assert set(said) == refused
    for text in said.values():
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(text)


def test_factors_of_another_rank_or_a_site_twice_are_no_action():
    env = world("ShiftWorld-v0", rank=4)
    shift, rows, columns = Shift(0.05), 32, 128
    factors = LowRankFactors(torch.zeros(rows, 5), torch.zeros(5, columns), 0.5, 1.0)
    said = refusals(env, [SiteEdit("fc2", shift, factors)])
    assert set(said) == BLACK_BOX
    assert "rank 4 and bound 1.0" in said["reward"]
    factors = LowRankFactors(torch.zeros(rows, 4), torch.zeros(4, columns), 0.5, 1.0)
    said = refusals(env, [SiteEdit("fc2", shift, factors, 0), SiteEdit("fc2", shift, factors, 0)])
    assert set(said) == BLACK_BOX
    assert "step 0 edits ['fc2', 'fc2'], and an action edits ['fc2']" in said["gradient"]


def test_more_steps_than_an_episode_has_are_refused():
    env = world(episode_length=2)
    nothing = DenseUpdate(torch.zeros(32, 128), 1.0)
    entries = [SiteEdit("fc2", Shift(0.05), nothing, step) for step in range(3)]
    said = refusals(env, entries)
    assert said["reward"] == "the journal has edits of 3 steps, and an episode has 2"
    assert set(said) == BLACK_BOX


def test_whole_tensors_are_for_data_and_adapters_for_the_oracle():
    env = world()
    assert set(refusals(env, [ReplaceTensors({"fc2.bias": torch.zeros(32)})])) == BLACK_BOX
    assert set(refusals(env, [Prepend(("a text",))])) == {*BLACK_BOX, "data"}


def test_streams_allow_shifts_of_open_sites_and_skips(tiny_lm):
    env = world("LifelongLLMEdit-v1", model=tiny_lm, **SMALL_STREAM)
    env.step(env.action_space.sample())
    made = edit_env(env).journal.entries
    assert refusals(env, [*made, Skip(0, "why not", 1)]) == {}
    site = gradient_stream(env).process.sites[0]
    update = LowRankFactors(torch.zeros(site.shape[0], 1), torch.zeros(1, site.shape[1]))
    assert set(refusals(env, [SiteEdit(site.name, Shift(2.0), update)])) == BLACK_BOX
    assert set(refusals(env, [SiteEdit("lm_head", Shift(), update)])) == {*BLACK_BOX, "data"}
    assert set(refusals(env, [Prepend(("a text", "another"))])) == {*BLACK_BOX, "data"}
    one = torch.ones(1)
    book = Codebook(site.name, one.expand(1, site.shape[1]), one.expand(1, site.shape[0]), one)
    for adapter in (book, Remember((("Who?", "She."),), 0.5)):
        assert set(refusals(env, [adapter])) == BLACK_BOX
    assert "data" in refusals(env, [replace(book, site="lm_head")])
    assert set(refusals(env, [Skip(0, "x", step) for step in range(9)])) == set()


class Number(gym.Env):
    """An environment of somebody's, which shows neither operator nor sites."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    layout, choices, episode_length = None, {}, 1
    journal = EditJournal("number")

    def evaluate(self, journal):
        """Nothing."""


def test_of_an_environment_that_shows_nothing_the_length_is_all_that_is_known():
    one, two = (ReplaceTensors({"number": torch.zeros(1)}, step) for step in range(2))
    assert refusals(Number(), [one]) == {}
    assert set(refusals(Number(), [one, two])) == BLACK_BOX
