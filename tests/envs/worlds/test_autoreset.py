"""Gymnasium's three ways to begin the next episodes, as its own vector environments have them."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence as equal
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from editgym.envs.sb3 import SB3VectorEnv

MODES = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
    "disabled": AutoresetMode.DISABLED,
}
EVERY_VERSION = ("MaskWorld-v0", "ShiftWorld-v1")


@pytest.fixture
def envs():
    """`envs(id, mode)`: two candidates with episodes of two edits."""
    return lambda id, mode, **arguments: gym.make_vec(
        id, num_envs=2, autoreset_mode=mode, episode_length=2, **arguments
    )


@pytest.mark.parametrize("env_id", EVERY_VERSION)
@pytest.mark.parametrize("name", MODES)
def test_mode_is_an_attribute_and_in_the_metadata_of_this_environment_alone(envs, env_id, name):
    other = gym.make_vec(env_id, num_envs=2)
    for given in (name, MODES[name], MODES[name].value):
        env = envs(env_id, given)
        assert env.unwrapped.autoreset_mode is MODES[name]
        assert env.metadata["autoreset_mode"] is MODES[name]
    assert other.unwrapped.autoreset_mode is AutoresetMode.SAME_STEP
    assert other.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("env_id", EVERY_VERSION)
@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_steps_are_those_of_gymnasium_s_own_vector_environment(envs, env_id, mode, actions):
    ours = envs(env_id, mode)
    theirs = SyncVectorEnv(
        [lambda: gym.make(env_id, episode_length=2)] * 2, autoreset_mode=MODES[mode]
    )
    assert equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    for action in actions(ours.action_space, 7):
        mine, other = ours.step(action), theirs.step(action)
        assert np.array_equal(mine[0], other[0])
        assert mine[1] == pytest.approx(other[1], abs=1e-6)
        assert all(np.array_equal(a, b) for a, b in zip(mine[2:4], other[2:4], strict=True))
        assert mine[4].keys() == other[4].keys()


@pytest.mark.parametrize("options", [None, {"reset_mask": np.ones(2, dtype=np.bool_)}])
def test_disabled_waits_for_a_reset(envs, actions, options):
    env, again = envs("ShiftWorld-v1", "disabled"), envs("ShiftWorld-v1", "same_step")
    for each in (env, again):
        each.reset(seed=0)
    first, last, new = actions(env.action_space, 3)
    for each in (env, again):
        each.step(first)
    ended, reset = env.step(last), again.step(last)
    assert ended[2].all()
    assert "final_obs" not in ended[4]
    assert np.array_equal(ended[0], np.stack(reset[4]["final_obs"]))
    with pytest.raises(gym.error.ResetNeeded, match=r"are over: call reset\(\)"):
        env.step(new)
    assert np.array_equal(env.reset(options=options)[0], reset[0])
    assert np.array_equal(env.step(new)[1], again.step(new)[1])


def test_truncated_episodes_give_way_too(envs, actions):
    env = envs("ShiftWorld-v1", "next_step", max_episode_steps=1)
    begun, _ = env.reset(seed=0)
    first, ignored = actions(env.action_space, 2)
    assert env.step(first)[3].all()
    observations, rewards, terminated, truncated, infos = env.step(ignored * np.nan)
    assert np.array_equal(observations, begun)
    assert not any(column.any() for column in (rewards, terminated, truncated))
    assert infos["edit_step"].tolist() == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_reset_has_to_be_made_again(envs, actions, monkeypatch, mode):
    env, plain = envs("ShiftWorld-v1", mode), envs("ShiftWorld-v1", mode)
    begin, first, last = env.unwrapped.candidates.reset, *actions(env.action_space, 2)
    for each in (env, plain):
        each.reset(seed=0)
        each.step(first)

    def interrupted(**chosen):
        begin(**chosen)
        raise KeyboardInterrupt

    monkeypatch.setattr(env.unwrapped.candidates, "reset", interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.step(last) if mode == "same_step" else env.reset()
    monkeypatch.undo()
    if mode == "next_step":
        assert not env.step(last)[1].any()
    else:
        with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
            env.step(last)
    for each in (env, plain):
        each.reset(seed=1)
    assert np.array_equal(env.step(first)[1], plain.step(first)[1])


@pytest.mark.parametrize(
    ("mode", "mask", "expected"),
    [
        ("same_step", np.ones(2, dtype=np.bool_), "left out unless autoreset_mode is"),
        ("disabled", np.array([True, False]), "True for all 2 candidates"),
        ("disabled", np.ones(3, dtype=np.bool_), "True for all 2 candidates"),
        ("disabled", np.ones(2), "True for all 2 candidates"),
    ],
)
def test_mask_that_leaves_candidates_out_is_an_error(envs, mode, mask, expected):
    env = envs("MaskWorld-v1", mode)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=f"options: reset_mask must be {expected}"):
        env.reset(options={"reset_mask": mask})


@pytest.mark.parametrize("mode", ["sometimes", None, 1])
def test_unknown_mode_is_an_error(envs, mode):
    with pytest.raises(ValueError, match="autoreset_mode must be one of 'next_step', 'same_step'"):
        envs("MaskWorld-v1", mode)


def test_sb3_refuses_what_it_would_misread(envs):
    with pytest.raises(ValueError, match="SAME_STEP"):
        SB3VectorEnv(envs("MaskWorld-v1", "next_step"))
