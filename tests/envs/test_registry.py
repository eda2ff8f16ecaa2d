"""What every environment must do: every test here runs on every row of
`envs_registry.ENVIRONMENTS`."""

import dataclasses
import doctest
import importlib
import inspect
import json
import operator
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
from envs_registry import ENVIRONMENTS, Environment, environment_spec, register_all

VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


def _ids():
    """Every id; where a class has several, the tests of all but the last are slow ones."""
    last = {row.entry_point: row.id for row in ENVIRONMENTS}
    for row in ENVIRONMENTS:
        is_last = last[row.entry_point] == row.id
        yield row.id if is_last else pytest.param(row.id, marks=pytest.mark.slow)


pytestmark = pytest.mark.parametrize("env_id", list(_ids()))


# --- what differs between environments ------------------------------------------------------------


def gradient_ascent(env, seed):
    """An edit made knowing everything: 200 steps of Adam on the action, through the differentiable
    reward."""
    env.reset(seed=0)  # of other batches than `seed`'s: it transfers
    action = (0.01 * torch.randn(env.action_space.shape)).requires_grad_()
    optimizer = torch.optim.Adam([action], lr=0.03)
    for _ in range(200):
        env.reset()
        reward = env.differentiable_step(action).reward.sum()
        optimizer.zero_grad()
        (-reward).backward()
        optimizer.step()
        with torch.no_grad():
            action.clamp_(-1, 1)
    return action.detach().numpy()


def best_of_the_batch(env, seed):
    """The training-free action after twenty steps of Adam on the very batch that it is judged
    on."""
    action = torch.from_numpy(env.training_free_action()).requires_grad_()
    optimizer = torch.optim.Adam([action], lr=0.05)
    for _ in range(20):
        env.reset(seed=seed)
        optimizer.zero_grad()
        (-env.differentiable_step(action).reward).backward()
        optimizer.step()
        with torch.no_grad():
            action.clamp_(-1, 1)
    return action.detach().numpy()


def answers_as_before(info):
    """Of a world: accuracies are those of before."""
    before = {key: value for key, value in info.items() if key.endswith("_before")}
    assert before
    assert all(info[key.removesuffix("_before")] == value for key, value in before.items())


def answers_as_the_original(info):
    """Of a stream, whose requests are not answered as wanted yet."""
    assert (info["locality"], info["reliability"], info["is_success"]) == (1, 0, 0)
    assert info["generalization"] < 1


@dataclass(frozen=True)
class Traits:
    """How to make an environment that steps quickly, and what is known of its rewards.

    Attributes:
        oracle: `oracle(env, seed)`: an action that scores above no edit on the batch of `seed`.
        gain: By how much.
        improves: Key of an info that such an action makes larger.
        destructive: Arguments with which random actions destroy the network.
        loss: By how much.
        length: Name of the argument that is an episode's number of steps.
        small: Arguments of a quick one-step episode.
        other: One more argument.
        signal: Arguments with which `unchanged` holds.
        unchanged: Asserts that an info is that of no edit.
        strict: Arguments with which an action out of range is an error.
        total: What an episode's rewards say of its last weights.
    """

    oracle: Callable[[Any, int], np.ndarray]
    gain: float
    improves: str
    destructive: Mapping[str, Any]
    loss: float
    unchanged: Callable[[Mapping[str, float]], None]
    length: str = "episode_length"
    small: Mapping[str, Any] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)
    signal: Mapping[str, Any] = field(default_factory=dict)
    strict: Mapping[str, Any] = field(default_factory=dict)
    total: Callable[[list[float]], float] = operator.itemgetter(-1)


WORLD = Traits(
    gradient_ascent,
    1,
    "is_success",
    {"rank": "full"},
    0.3,
    answers_as_before,
    other={"forget_class": [3, 5]},
    signal={"signal": "accuracy"},
)
IMPROVED_WORLD = dataclasses.replace(WORLD, strict={"out_of_range": "error"}, total=sum)
STREAM = Traits(
    best_of_the_batch,
    1,
    "tf_efficacy",
    {"action": "factors"},
    0.3,
    answers_as_the_original,
    length="horizon",
    small={"horizon": 1, "edits_per_step": 2, "back_depth": 1},
    other={"sites": ["model.layers.[45].mlp.down_proj"]},
)
TRAITS = {
    "MaskWorld-v0": WORLD,
    "MaskWorld-v1": IMPROVED_WORLD,
    "ShiftWorld-v0": WORLD,
    "ShiftWorld-v1": IMPROVED_WORLD,
    "LifelongLLMEdit-v0": STREAM,
    "LifelongLLMEdit-v1": STREAM,
}  # a new one needs a row


@pytest.fixture
def traits(env_id):
    return TRAITS[env_id]


@pytest.fixture
def arguments(traits):
    """`arguments(length, **others)`: of an environment with episodes of `length` steps."""
    return lambda length=None, **others: {
        **traits.small,
        **({} if length is None else {traits.length: length}),
        **others,
    }


@pytest.fixture
def make(env_id, arguments):
    """`make(length, **others)`: an unwrapped environment."""
    return lambda length=None, **others: (
        gym.make(f"editgym:{env_id}", **arguments(length, **others)).unwrapped
    )


def in_subprocess(code):
    """What a fresh interpreter, started anywhere, prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- interface ------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [check_env, check_env_sb3])
def test_checkers_have_nothing_to_say(make, check):
    env = make()  # Gymnasium says of an earlier version that there is a newer one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(env)


def test_spec_survives_json(env_id, traits, arguments):
    chosen = arguments(2, **traits.other)
    spec = gym.make(f"editgym:{env_id}", **chosen).spec
    copy = EnvSpec.from_json(spec.to_json())
    assert copy == spec
    registered = next(row.kwargs for row in ENVIRONMENTS if row.id == env_id)
    assert json.loads(spec.to_json())["kwargs"] == {**registered, **chosen}
    assert gym.make(copy).unwrapped.episode_length == 2


def test_step_returns_plain_finite_numbers_and_the_same_keys(make, rollout):
    infos = []
    for seen in rollout(make(2), steps=6):
        if len(seen) == 5:
            observation, reward, terminated, truncated, info = seen
            assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
            assert np.isfinite(reward)
            assert observation.dtype == np.float32
            infos.append(info)
    assert all(
        type(value) is float and np.isfinite(value) for info in infos for value in info.values()
    )
    assert len({tuple(info) for info in infos}) == 1
    assert "is_success" in infos[0]


def test_every_array_and_info_is_a_new_object(make, rollout):
    seen = rollout(make(3), steps=6)
    observations, infos = [step[0] for step in seen], [step[-1] for step in seen]
    assert not any(
        np.shares_memory(a, b) for i, a in enumerate(observations) for b in observations[:i]
    )
    assert len({*map(id, infos)}) == len(infos)


HEADINGS = (
    "Observation",
    "Action",
    "Transition",
    "Reward",
    "End",
    "Info",
    "Arguments",
    "Raises",
    "Example",
    "Version history",
)


@pytest.fixture
def door(env_id):
    """The environment's class."""
    module, name = gym.spec(env_id).entry_point.split(":")
    return getattr(importlib.import_module(module), name)


def sections(door):
    """The text under every heading of a class's docstring, in order."""
    parts = re.split(r"^(\w[\w ]*):$", inspect.getdoc(door), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def own_parameters(door):
    """An environment's parameters, with a default, but for those of its task."""
    *own, task_arguments = inspect.signature(door).parameters.values()
    assert (task_arguments.name, task_arguments.kind) == ("task_arguments", VAR_KEYWORD)
    return own


def test_docstring_is_the_specification_under_fixed_headings(door):
    assert tuple(sections(door)) == HEADINGS
    assert all(text.strip() for text in sections(door).values())
    assert "v0: " in sections(door)["Version history"]


def test_every_argument_is_in_the_signature_with_its_default_and_in_the_docstring(door):
    own = own_parameters(door)
    assert all(parameter.default is not parameter.empty for parameter in own)
    documented = re.findall(r"^ {4}(\**\w+): ", sections(door)["Arguments"], flags=re.MULTILINE)
    assert sorted(documented) == sorted(
        [*(parameter.name for parameter in own), "**task_arguments"]
    )


def test_defaults_are_what_an_environment_is_made_with(env_id, door, rollout):
    defaults = {parameter.name: parameter.default for parameter in own_parameters(door)}
    registered = next(row.kwargs for row in ENVIRONMENTS if row.id == env_id)
    assert equal(
        rollout(gym.make(env_id, **{**defaults, **registered}), steps=1),
        rollout(gym.make(env_id), steps=1),
        exact=True,
    )


def test_the_vector_environment_takes_the_same_arguments(env_id, door):
    entry_point = gym.spec(env_id).vector_entry_point
    if entry_point is None:
        pytest.skip("has no vector environment of its own")
    module, name = entry_point.split(":")
    many = own_parameters(getattr(importlib.import_module(module), name))
    defaults = {parameter.name: parameter.default for parameter in many}
    assert defaults.pop("num_envs") == 1
    assert defaults.pop("shared_batch") is False
    assert defaults.pop("max_episode_steps") is None
    assert defaults.pop("autoreset_mode") == "same_step"
    assert defaults == {parameter.name: parameter.default for parameter in own_parameters(door)}


def test_example_of_the_class_runs(env_id, door):
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    (test,) = finder.find(door, door.__name__)
    assert test.examples
    assert runner.run(test).failed == 0


# --- reproducibility ------------------------------------------------------------------------------


def wrapped(env):
    return gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(env))


@pytest.mark.parametrize("wrap", [lambda env: env, wrapped], ids=["bare", "wrapped"])
def test_one_seed_is_one_rollout_and_another_seed_another(
    env_id, arguments, rollout, without_timing, wrap
):
    first, again, other = (
        without_timing(rollout(wrap(gym.make(env_id, **arguments(5))), seed, 16))
        for seed in (5, 5, 6)
    )
    assert equal(first, again)
    assert not equal([step[1] for step in first], [step[1] for step in other])


@pytest.mark.parametrize("mode", [None, "sync"])
def test_one_seed_is_one_rollout_vectorised(env_id, arguments, rollout, mode):
    if mode is None and gym.spec(env_id).vector_entry_point is None:
        pytest.skip("without a vector environment of its own this is the other case")

    def run(seed):
        return rollout(
            gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, **arguments(3)), seed, 8
        )

    first, again, other = run(5), run(5), run(6)
    assert all(equal(a[:4], b[:4], exact=True) for a, b in zip(first, again, strict=True))
    assert not equal([step[1] for step in first[1:]], [step[1] for step in other[1:]])


def test_global_seeds_neither_matter_nor_change(make, rollout):
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        runs.append(rollout(make(), steps=5))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])
    assert equal(*runs)


def test_episodes_without_a_seed_go_on_and_are_not_the_same(make, actions):
    env = make()
    action = actions(env.action_space)[0]
    env.reset(seed=0)
    rewards = [env.step(action)[1]]
    for _ in range(3):
        env.reset()
        rewards.append(env.step(action)[1])
    assert len(set(rewards)) == 4
    env.reset(seed=0)
    assert env.step(action)[1] == rewards[0]


def test_first_reset_without_a_seed_is_random(make, actions):
    rewards = set()
    for _ in range(2):
        env = make()
        env.reset()
        rewards.add(env.step(actions(env.action_space)[0])[1])
    assert len(rewards) == 2


def test_pickle_makes_the_same_environment_again(make, traits, rollout):
    env = make(2, **traits.other)
    env.reset(seed=1)
    stored = pickle.dumps(env)
    assert len(stored) < 10_000, "weights and data are loaded again, not pickled"
    assert equal(rollout(pickle.loads(stored), steps=6), rollout(env, steps=6))


def test_made_in_another_process_it_is_the_same(env_id, make, arguments, rollout):
    code = (
        f"import gymnasium as gym, numpy as np; env = gym.make('editgym:{env_id}',"
        f" **{arguments()})\nenv.reset(seed=3)\n"
        "action = np.random.default_rng(0).uniform(-1, 1, env.action_space.shape)\n"
        "print(repr(env.step(action.astype(np.float32))[1]))"
    )
    assert float(in_subprocess(code)) == pytest.approx(rollout(make(), 3, 1)[1][1], abs=1e-6)


@pytest.mark.slow
def test_stable_baselines_makes_it_in_child_processes(env_id, make, arguments, rollout):
    envs = make_vec_env(
        f"editgym:{env_id}", n_envs=2, seed=4, vec_env_cls=SubprocVecEnv, env_kwargs=arguments()
    )
    try:
        envs.reset()
        action = np.random.default_rng(0).uniform(-1, 1, envs.action_space.shape).astype(np.float32)
        _, rewards, dones, infos = envs.step(np.stack([action, action]))
    finally:
        envs.close()
    for i in range(2):
        assert rewards[i] == pytest.approx(rollout(make(), 4 + i, 1, [action])[1][1], abs=1e-6)
    assert dones.all()
    assert all("terminal_observation" in info for info in infos)


# --- episodes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 4])
def test_episode_terminates_after_its_length_and_is_never_truncated(make, actions, length):
    env = make(length)
    env.reset(seed=0)
    steps = [env.step(action) for action in actions(env.action_space, length)]
    assert [step[2] for step in steps] == [False] * (length - 1) + [True]
    assert not any(step[3] for step in steps)
    assert [step[4]["edit_step"] for step in steps] == list(range(1, length + 1))
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        env.step(actions(env.action_space)[0])


def test_step_before_reset_is_an_error(make, actions):
    env = make()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions(env.action_space)[0])


def test_ordinary_vectorisation_is_single_environments_side_by_side(
    env_id, make, arguments, actions
):
    envs = gym.make_vec(f"editgym:{env_id}", num_envs=2, vectorization_mode="sync", **arguments(2))
    singles = [make(2), make(2)]
    observations, _ = envs.reset(seed=7)
    for i, single in enumerate(singles):
        assert np.array_equal(single.reset(seed=7 + i)[0], observations[i])
    for drawn in actions(envs.single_action_space, 4).reshape(2, 2, -1):
        seen = envs.step(drawn)
        for i, single in enumerate(singles):
            alone = single.step(drawn[i])
            assert np.array_equal(seen[0][i], alone[0])
            assert [column[i] for column in seen[1:4]] == list(alone[1:4])
            assert alone[4].keys() <= seen[4].keys()
    assert seen[2].all()


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


# --- weights --------------------------------------------------------------------------------------


def test_undo_after_every_step_restores_the_weights_bitwise(make, actions):
    env = make(4)
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


def test_reset_after_many_edits_equals_a_fresh_environment(make, rollout):
    used, fresh = make(4), make(4)
    rollout(used, seed=8, steps=18)
    assert fingerprint(used.network.base) == used.network.base_hash
    assert equal(used.reset(seed=3), fresh.reset(seed=3), exact=True)
    assert equal(
        as_arrays(used.network.state_dict()), as_arrays(fresh.network.state_dict()), exact=True
    )
    assert equal(rollout(used, 3, 6), rollout(fresh, 3, 6), exact=True)


def test_journal_holds_the_episode_and_replays_to_its_network(make, actions):
    env = make(3)
    env.reset(seed=0)
    for step, action in enumerate(actions(env.action_space, 3), start=1):
        env.step(action)
        assert env.journal.steps == step
    twin = env.network.fresh()
    twin.replay(env.journal)
    assert all(torch.equal(a, b) for a, b in zip(twin.weights, env.network.weights, strict=True))
    env.reset()
    assert len(env.journal) == 0


# --- bad actions ----------------------------------------------------------------------------------


def bad_action(kind, action):
    return {
        "nan": np.where(np.arange(len(action)) == 3, np.nan, action),
        "infinite": action * np.inf,
        "too large": action + 2,
        "too small": action - 2,
        "just out of range": np.full_like(action, 1 + 3e-6),
        "too short": action[:-1],
        "too long": np.append(action, 0),
        "two": np.stack([action, action]),
        "scalar": np.float32(0),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "nan",
        "infinite",
        "too large",
        "too small",
        "just out of range",
        "too short",
        "too long",
        "two",
        "scalar",
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_bad_action_is_a_clear_error_and_changes_nothing(make, traits, actions, kind):
    env, untouched = make(3, **traits.strict), make(3, **traits.strict)
    first, second, third = actions(env.action_space, 3)
    for each in (env, untouched):
        each.reset(seed=0)
        each.step(first)
    before = env.network.state_dict()
    with pytest.raises(
        ValueError, match=r"action (has shape .* expected|reaches|has values that are not finite)"
    ):
        env.step(bad_action(kind, second))
    assert equal(as_arrays(before), as_arrays(env.network.state_dict()), exact=True)
    assert len(env.journal) == len(untouched.journal)
    for action in (second, third):
        assert equal(env.step(action), untouched.step(action), exact=True)


def test_rounding_beyond_the_box_is_forgiven(make):
    env = make()
    env.reset(seed=0)
    _, reward, *_ = env.step(np.full(env.action_space.shape, 1 + 5e-7, np.float32))
    assert np.isfinite(reward)
    assert len(env.journal) == len(env.network.sites)


# --- reward semantics -----------------------------------------------------------------------------


def test_oracle_scores_above_no_edit_and_no_edit_above_destruction(make, traits):
    env, destroyed = make(), make(16, **traits.destructive)
    best = traits.oracle(env, 1)

    def score(action):
        env.reset(seed=1)
        return env.step(action)

    def destroy(seed):
        """Sixteen random edits, each as large as can be; one of them alone may forget the right
        class by luck."""
        destroyed.reset(seed=1)
        edits = (
            np.random.default_rng(seed)
            .choice([-1, 1], (16, *destroyed.action_space.shape))
            .astype(np.float32)
        )
        return traits.total([destroyed.step(edit)[1] for edit in edits])

    nothing, edited = score(np.zeros(env.action_space.shape, np.float32)), score(best)
    assert edited[1] > nothing[1] + traits.gain
    assert edited[4][traits.improves] > nothing[4][traits.improves]
    assert nothing[4]["is_success"] == 0
    assert np.mean([destroy(seed) for seed in range(4)]) < nothing[1] - traits.loss


def test_no_edit_scores_what_the_unedited_network_does(make, traits):
    env = make(**traits.signal)
    env.reset(seed=0)
    traits.unchanged(env.step(np.zeros(env.action_space.shape, np.float32))[4])


# --- rendering ------------------------------------------------------------------------------------


def test_every_render_mode_works_without_a_screen(env_id, make, arguments, actions, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    modes = make().metadata["render_modes"]
    assert set(modes) == {"rgb_array", "ansi"}
    for mode in modes:
        env = gym.make(env_id, render_mode=mode, **arguments())
        env.reset(seed=0)
        env.step(actions(env.action_space)[0])
        frame = env.render()
        assert isinstance(frame, str) if mode == "ansi" else frame.dtype == np.uint8


def test_human_rendering_comes_free(env_id, arguments, actions):
    pytest.importorskip("pygame")
    env = gym.make(env_id, render_mode="human", **arguments())
    assert env.render_mode == "human"
    env.reset(seed=0)
    _, reward, *_ = env.step(actions(env.action_space)[0])
    assert np.isfinite(reward)
    env.close()


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_unknown_render_mode_is_an_error(make):
    with pytest.raises(ValueError, match="render_mode"):
        make(render_mode="holographic")


# --- the table ------------------------------------------------------------------------------------


def test_registering_again_changes_nothing(env_id):
    before = gym.spec(env_id)
    register_all()
    assert gym.spec(env_id) is before
    assert before.max_episode_steps is None


def test_namespaced_id_is_the_same_environment(env_id, arguments, rollout):
    assert equal(
        rollout(gym.make(f"editgym/{env_id}", **arguments(2)), steps=3),
        rollout(gym.make(env_id, **arguments(2)), steps=3),
        exact=True,
    )
    assert gym.spec(f"editgym/{env_id}").vector_entry_point == gym.spec(env_id).vector_entry_point
    for evaluation in (False, True):
        spec = environment_spec(f"editgym/{env_id}", arguments(), evaluation=evaluation)
        assert spec == environment_spec(env_id, arguments(), evaluation=evaluation)
        assert spec.id == env_id, "results have one name for it"


def test_argument_that_nobody_takes_is_python_s_type_error(env_id, arguments):
    """What TorchRL's `GymEnv` looks for: it tries arguments that are not every environment's."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
        gym.make(env_id, frameskip=1, **arguments())


def test_row_that_is_there_twice_is_an_error(env_id, monkeypatch):
    monkeypatch.setattr(
        envs_registry, "ENVIRONMENTS", (*ENVIRONMENTS, Environment(env_id, "somewhere:Else"))
    )
    with pytest.raises(ValueError, match="an id twice"):
        register_all()


def test_import_registers_and_costs_next_to_nothing(env_id):
    code = (
        f"import sys, editgym, gymnasium; gymnasium.spec('{env_id}')\nprint([name for name in"
        " ('torch', 'stable_baselines3', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    assert in_subprocess(code) == "[]"
