"""What every environment must do: every test here runs on every row of `envs_registry.ENVIRONMENTS`."""

import doctest
import importlib
import json
import pickle
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_checker import data_equivalence as equal
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import envs_registry
from editgym.weights import fingerprint
from envs_registry import ENVIRONMENTS, Environment, register_all

pytestmark = pytest.mark.parametrize("env_id", [row.id for row in ENVIRONMENTS])


def in_subprocess(code):
    """What a fresh interpreter, started anywhere, prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- interface -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_env, check_env_sb3])
def test_checkers_have_nothing_to_say(env_id, make, check):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(make(env_id))


def test_spec_survives_json(env_id):
    spec = gym.make(f"editgym:{env_id}", episode_length=2, forget_class=[3, 5]).spec
    copy = EnvSpec.from_json(spec.to_json())
    assert copy == spec
    assert json.loads(spec.to_json())["kwargs"] == {"episode_length": 2, "forget_class": [3, 5]}
    assert gym.make(copy).unwrapped.episode_length == 2


def test_step_returns_plain_finite_numbers_and_the_same_keys(env_id, make, rollout):
    infos = []
    for seen in rollout(make(env_id, episode_length=2), steps=6):
        if len(seen) == 5:
            observation, reward, terminated, truncated, info = seen
            assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
            assert np.isfinite(reward)
            assert observation.dtype == np.float32
            infos.append(info)
    assert all(type(value) is float and np.isfinite(value) for info in infos for value in info.values())
    assert len({tuple(info) for info in infos}) == 1
    assert "is_success" in infos[0]


def test_every_array_and_info_is_a_new_object(env_id, make, rollout):
    seen = rollout(make(env_id, episode_length=3), steps=6)
    observations, infos = [step[0] for step in seen], [step[-1] for step in seen]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(observations) for b in observations[:i])
    assert len({*map(id, infos)}) == len(infos)


def test_example_of_the_class_runs(env_id):
    module, name = gym.spec(env_id).entry_point.split(":")
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (test,) = finder.find(getattr(importlib.import_module(module), name), name)
    assert test.examples
    assert runner.run(test).failed == 0


# --- reproducibility -------------------------------------------------------------------------------------------


def wrapped(env):
    return gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(env))


@pytest.mark.parametrize("wrap", [lambda env: env, wrapped], ids=["bare", "wrapped"])
def test_one_seed_is_one_rollout_and_another_seed_another(env_id, rollout, without_timing, wrap):
    first, again, other = (without_timing(rollout(wrap(gym.make(env_id, episode_length=3)), seed))
                           for seed in (5, 5, 6))
    assert equal(first, again)
    assert not equal([step[1] for step in first], [step[1] for step in other])


@pytest.mark.parametrize("mode", [None, "sync"])
def test_one_seed_is_one_rollout_vectorised(env_id, rollout, mode):
    def run(seed):
        return rollout(gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, episode_length=3), seed)
    first, again, other = run(5), run(5), run(6)
    assert all(equal(a[:4], b[:4], exact=True) for a, b in zip(first, again, strict=True))
    assert not equal([step[1] for step in first[1:]], [step[1] for step in other[1:]])


def test_global_seeds_neither_matter_nor_change(env_id, make, rollout):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        runs.append(rollout(make(env_id), steps=5))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])
    assert equal(*runs)


def test_episodes_without_a_seed_go_on_and_are_not_the_same(env_id, make, actions):
    env = make(env_id)
    action = actions(env.action_space)[0]
    env.reset(seed=0)
    rewards = [env.step(action)[1]]
    for _ in range(3):
        env.reset()
        rewards.append(env.step(action)[1])
    assert len(set(rewards)) == 4
    env.reset(seed=0)
    assert env.step(action)[1] == rewards[0]


def test_first_reset_without_a_seed_is_random(env_id, make, actions):
    rewards = set()
    for _ in range(2):
        env = make(env_id)
        env.reset()
        rewards.add(env.step(actions(env.action_space)[0])[1])
    assert len(rewards) == 2


def test_pickle_makes_the_same_environment_again(env_id, make, rollout):
    env = make(env_id, episode_length=2, forget_class=3)
    env.reset(seed=1)
    stored = pickle.dumps(env)
    assert len(stored) < 10_000, "weights and data are loaded again, not pickled"
    assert equal(rollout(pickle.loads(stored), steps=6), rollout(env, steps=6))


def test_made_in_another_process_it_is_the_same(env_id, make, rollout):
    code = (f"import gymnasium as gym, numpy as np; env = gym.make('editgym:{env_id}'); env.reset(seed=3)\n"
            "print(repr(env.step(np.random.default_rng(0).uniform(-1, 1, env.action_space.shape)"
            ".astype(np.float32))[1]))")
    assert float(in_subprocess(code)) == pytest.approx(rollout(make(env_id), 3, 1)[1][1], abs=1e-6)


@pytest.mark.slow
def test_stable_baselines_makes_it_in_child_processes(env_id, make, rollout):
    envs = make_vec_env(f"editgym:{env_id}", n_envs=2, seed=4, vec_env_cls=SubprocVecEnv)
    try:
        envs.reset()
        action = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        _, rewards, dones, infos = envs.step(np.stack([action, action]))
    finally:
        envs.close()
    for i in range(2):
        assert rewards[i] == pytest.approx(rollout(make(env_id), 4 + i, 1, [action])[1][1], abs=1e-6)
    assert dones.all()
    assert all("terminal_observation" in info for info in infos)


# --- episodes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 4])
def test_episode_terminates_after_its_length_and_is_never_truncated(env_id, make, actions, length):
    env = make(env_id, episode_length=length)
    env.reset(seed=0)
    steps = [env.step(action) for action in actions(env.action_space, length)]
    assert [step[2] for step in steps] == [False] * (length - 1) + [True]
    assert not any(step[3] for step in steps)
    assert [step[4]["edit_step"] for step in steps] == list(range(1, length + 1))
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(actions(env.action_space)[0])


def test_step_before_reset_is_an_error(env_id, make, actions):
    env = make(env_id)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions(env.action_space)[0])


def test_vector_environment_resets_in_the_same_step_and_keeps_what_was_final(env_id, rollout):
    if gym.spec(env_id).vector_entry_point is None:
        pytest.skip("has no vector environment of its own")
    env = gym.make_vec(f"editgym:{env_id}", num_envs=2, episode_length=2)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    first, middle, last = rollout(env, steps=2)
    assert not middle[2].any()
    assert "final_obs" not in middle[4]
    assert last[2].all()
    assert not last[3].any()
    assert np.array_equal(last[0], first[0]), "the new episode's first observation"
    assert not np.array_equal(np.stack(last[4]["final_obs"]), last[0])
    assert last[4]["final_info"].keys() == middle[4].keys()
    assert last[4]["final_info"]["edit_step"].tolist() == [2, 2]


# --- weights ---------------------------------------------------------------------------------------------------


def test_undo_after_every_step_restores_the_weights_bitwise(env_id, make, actions):
    env = make(env_id, episode_length=4)
    env.reset(seed=0)
    states = [env.network.state_dict()]
    for action in actions(env.action_space, 4):
        env.step(action)
        states.append(env.network.state_dict())
    assert not equal(as_arrays(states[-1]), as_arrays(states[0]))
    for state in reversed(states[:-1]):
        env.network.undo()
        assert equal(as_arrays(env.network.state_dict()), as_arrays(state), exact=True)


def as_arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def test_reset_after_many_edits_equals_a_fresh_environment(env_id, make, rollout):
    used, fresh = make(env_id, episode_length=4), make(env_id, episode_length=4)
    rollout(used, seed=8, steps=38)
    assert fingerprint(used.network.base) == used.network.base_hash
    assert equal(used.reset(seed=3), fresh.reset(seed=3), exact=True)
    assert equal(as_arrays(used.network.state_dict()), as_arrays(fresh.network.state_dict()), exact=True)
    assert equal(rollout(used, 3, 6), rollout(fresh, 3, 6), exact=True)


def test_journal_holds_the_episode_and_replays_to_its_network(env_id, make, actions):
    env = make(env_id, episode_length=3)
    env.reset(seed=0)
    for step, action in enumerate(actions(env.action_space, 3), start=1):
        env.step(action)
        assert env.journal.steps == step
    twin = env.task.networks[0].fresh()
    twin.replay(env.journal)
    assert all(torch.equal(a, b) for a, b in zip(twin.weights, env.network.weights, strict=True))
    env.reset()
    assert len(env.journal) == 0


# --- bad actions -----------------------------------------------------------------------------------------------


def bad_action(kind, action):
    return {
        "nan": np.where(np.arange(len(action)) == 3, np.nan, action), "infinite": action * np.inf,
        "too large": action + 2, "too small": action - 2, "just out of range": np.full_like(action, 1 + 3e-6),
        "too short": action[:-1], "too long": np.append(action, 0), "two": np.stack([action, action]),
        "scalar": np.float32(0),
    }[kind]


@pytest.mark.parametrize("kind", ["nan", "infinite", "too large", "too small", "just out of range", "too short",
                                  "too long", "two", "scalar"])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_action_is_a_clear_error_and_changes_nothing(env_id, make, actions, kind):
    env, untouched = make(env_id, episode_length=3), make(env_id, episode_length=3)
    first, second, third = actions(env.action_space, 3)
    for each in (env, untouched):
        each.reset(seed=0)
        each.step(first)
    before = env.network.state_dict()
    with pytest.raises(ValueError, match=r"action (has shape .* expected|.*must be finite and in \[-1, 1\])"):
        env.step(bad_action(kind, second))
    assert equal(as_arrays(before), as_arrays(env.network.state_dict()), exact=True)
    assert len(env.journal) == len(untouched.journal)
    for action in (second, third):
        assert equal(env.step(action), untouched.step(action), exact=True)


def test_rounding_beyond_the_box_is_forgiven(env_id, make):
    env = make(env_id)
    env.reset(seed=0)
    _, reward, *_ = env.step(np.full(env.action_space.shape, 1 + 5e-7, np.float32))
    assert np.isfinite(reward)
    assert len(env.journal) == len(env.network.sites)


# --- reward semantics ------------------------------------------------------------------------------------------


def gradient_ascent(env):
    """An edit made knowing everything: 200 steps of Adam on the action, through the differentiable reward."""
    process = env.process
    action = (0.01 * torch.randn(1, *env.action_space.shape)).requires_grad_()
    optimizer = torch.optim.Adam([action], lr=0.03)
    for _ in range(200):
        process.reset()
        reward = process.step(action, differentiable=True).reward.sum()
        optimizer.zero_grad()
        (-reward).backward()
        optimizer.step()
        with torch.no_grad():
            action.clamp_(-1, 1)
    return action.detach()[0].numpy()


ORACLES = {"MaskWorld-v0": gradient_ascent, "ShiftWorld-v0": gradient_ascent}  # a new environment needs a row


def test_oracle_scores_above_no_edit_and_no_edit_above_destruction(env_id, make):
    env, destroyed = make(env_id), make(env_id, rank="full", episode_length=16)
    env.reset(seed=0)
    best = ORACLES[env_id](env)

    def score(action):
        env.reset(seed=1)
        return env.step(action)

    def destroy(seed):
        """Sixteen random edits, each as large as can be; one of them alone may forget the right class by luck."""
        destroyed.reset(seed=1)
        edits = np.random.default_rng(seed).choice([-1, 1], (16, *destroyed.action_space.shape)).astype(np.float32)
        return [destroyed.step(edit)[1] for edit in edits][-1]

    nothing, edited = score(np.zeros(env.action_space.shape, np.float32)), score(best)
    assert edited[1] > nothing[1] + 1
    assert (edited[4]["is_success"], nothing[4]["is_success"]) == (1, 0)
    assert np.mean([destroy(seed) for seed in range(10)]) < nothing[1] - 0.3


def test_no_edit_scores_what_the_unedited_network_does(env_id, make):
    env = make(env_id, signal="accuracy")
    env.reset(seed=0)
    info = env.step(np.zeros(env.action_space.shape, np.float32))[4]
    before = {key: value for key, value in info.items() if key.endswith("_before")}
    assert before
    assert all(info[key.removesuffix("_before")] == value for key, value in before.items())


# --- rendering -------------------------------------------------------------------------------------------------


def test_every_render_mode_works_without_a_screen(env_id, actions, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    modes = gym.make(env_id).metadata["render_modes"]
    assert set(modes) == {"rgb_array", "ansi"}
    for mode in modes:
        env = gym.make(env_id, render_mode=mode)
        env.reset(seed=0)
        env.step(actions(env.action_space)[0])
        frame = env.render()
        assert isinstance(frame, str) if mode == "ansi" else frame.dtype == np.uint8


def test_human_rendering_comes_free(env_id, actions):
    pytest.importorskip("pygame")
    env = gym.make(env_id, render_mode="human")
    assert env.render_mode == "human"
    env.reset(seed=0)
    _, reward, *_ = env.step(actions(env.action_space)[0])
    assert np.isfinite(reward)
    env.close()


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_unknown_render_mode_is_an_error(env_id, make):
    with pytest.raises(ValueError, match="render_mode"):
        make(env_id, render_mode="holographic")


# --- the table -------------------------------------------------------------------------------------------------


def test_registering_again_changes_nothing(env_id):
    before = gym.spec(env_id)
    register_all()
    assert gym.spec(env_id) is before
    assert before.max_episode_steps is None


def test_row_that_is_there_twice_is_an_error(env_id, monkeypatch):
    monkeypatch.setattr(envs_registry, "ENVIRONMENTS", (*ENVIRONMENTS, Environment(env_id, "somewhere:Else")))
    with pytest.raises(ValueError, match="an id twice"):
        register_all()


def test_import_registers_and_costs_next_to_nothing(env_id):
    code = (f"import sys, editgym, gymnasium; gymnasium.spec('{env_id}')\n"
            "print([name for name in ('torch', 'stable_baselines3', 'sklearn', 'matplotlib') if name in sys.modules])")
    assert in_subprocess(code) == "[]"
