import itertools
import sys

import gymnasium as gym
import numpy as np
import pytest

from editgym.envs.worlds.rendering import Episode, _painted, render
from editgym.tasks import make_task


@pytest.fixture
def rendered(make, world, actions):
    """`rendered(mode, steps, **arguments)`: what is drawn after so many steps."""

    def run(mode, steps=1, **arguments):
        env = make(world, render_mode=mode, episode_length=3, **arguments)
        env.reset(seed=0)
        for action in actions(env.action_space, steps):
            env.step(action)
        return env.render()

    return run


def test_frame_is_an_image_that_changes_with_every_edit(rendered):
    frames = [rendered("rgb_array", steps) for steps in range(3)]
    assert all((frame.shape, frame.dtype) == ((560, 1000, 3), np.uint8) for frame in frames)
    assert all(frame.std() > 10 for frame in frames), "blank"
    for before, after in itertools.pairwise(frames):
        assert (before != after).mean() > 0.01


def test_frame_of_one_state_is_always_the_same(rendered):
    assert np.array_equal(rendered("rgb_array"), rendered("rgb_array"))


def test_matrices_are_painted_from_blue_over_white_to_red():
    painted = _painted(np.array([[-2, 0], [0.01, 1]], np.float32), limit=1.0).astype(int)
    assert painted.shape == (196, 296, 3)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) <= 4
    blue, white, _, red = (painted[y, x] for y in (0, -1) for x in (0, -1))
    assert blue[2] - blue[0] > 50
    assert red[0] - red[2] > 50
    assert white.min() > 240
    assert np.array_equal(painted[97, 147], blue), "halves meet in the middle"
    assert np.array_equal(painted[98, 148], red)


def test_drawing_leaves_pyplot_alone(rendered, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    assert rendered("rgb_array").shape == (560, 1000, 3)


def test_frame_of_convolutions_and_several_sets(rendered):
    assert rendered("rgb_array", sites=["conv2", "fc2"], forget_samples=30).shape == (560, 1000, 3)


def test_text_has_a_line_per_edit(rendered):
    lines = rendered("ansi", 2, forget_class=[4, 2]).splitlines()
    assert lines[0] == "unlearning/digits: forget 2, 4 · 1 site(s)"
    assert lines[1].split() == ["step", "reward", "retain", "acc.", "forget", "acc.", "success"]
    assert [line.split()[0] for line in lines[2:]] == ["-", "1", "2"]


def test_text_shows_the_rewards_and_accuracies_that_step_returned(make, world, actions):
    env = make(world, render_mode="ansi")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(actions(env.action_space)[0])
    last = env.render().splitlines()[-1].split()
    assert last == [
        "1",
        f"{reward:+.3f}",
        f"{info['retain_accuracy']:.3f}",
        f"{info['forget_accuracy']:.3f}",
        "no",
    ]


def test_what_a_wrapper_writes_into_info_is_not_drawn(make, world, actions):
    env = make(world, render_mode="ansi")
    env.reset(seed=0)
    info = env.step(actions(env.action_space)[0])[4]
    before = env.render()
    info["retain_accuracy"] = 99.0
    assert env.render() == before


def test_rendering_needs_a_mode_and_an_episode(make, world):
    with pytest.warns(UserWarning, match=r"render\(\) needs a render_mode"):
        assert make(world).render() is None
    with pytest.raises(gym.error.ResetNeeded):
        make(world, render_mode="ansi").render()
    with pytest.raises(gym.error.ResetNeeded):
        gym.make_vec(f"editgym:{world}", num_envs=2, render_mode="ansi").render()


def test_vector_environment_draws_every_candidate(make, world, actions):
    env = gym.make_vec(f"editgym:{world}", num_envs=2, render_mode="ansi", episode_length=2)
    env.reset(seed=0)
    drawn = actions(env.action_space, 2)
    env.step(drawn[0])
    single = make(world, render_mode="ansi", episode_length=2)
    single.reset(seed=1)
    single.step(drawn[0][1])
    texts = env.render()
    assert len(texts) == 2
    assert texts[1] == single.render()
    env.step(drawn[1])
    single.step(drawn[1][1])
    assert env.render()[1] == single.render(), (
        "a finished episode is drawn until the next one's first step"
    )


def test_vector_environment_draws_frames(world, actions):
    env = gym.make_vec(f"editgym:{world}", num_envs=2, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(actions(env.action_space)[0])
    assert [frame.shape for frame in env.render()] == [(560, 1000, 3)] * 2


def test_vector_environment_without_a_mode_warns(world):
    with pytest.warns(UserWarning, match="needs a render_mode"):
        assert gym.make_vec(f"editgym:{world}", num_envs=2).render() is None


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_vector_environment_refuses_an_unknown_mode(world):
    with pytest.raises(ValueError, match="render_mode must be one of"):
        gym.make_vec(f"editgym:{world}", num_envs=2, render_mode="holographic")


def test_video_is_recorded_from_frames(world, actions, tmp_path):
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(
        gym.make(f"editgym:{world}", render_mode="rgb_array"), str(tmp_path)
    )
    env.reset(seed=0)
    env.step(actions(env.action_space)[0])
    env.close()
    assert list(tmp_path.glob("*.mp4"))


@pytest.mark.parametrize("name", ["a$^$b", r"US$\foo$", "$_$"])
def test_dollars_in_a_name_are_no_formula(name):
    names = {"retain": 0.9, f"identity {name}": 0.5}
    network = make_task("unlearning/digits").networks[0].fresh()
    episode = Episode(f"own: forget {name}", network, tuple(names))
    info = {f"{own}_accuracy{when}": v for own, v in names.items() for when in ("", "_before")}
    episode.record(1.0, info | {"is_success": 0.0})
    assert render(episode, "rgb_array").shape == (560, 1000, 3)
