"""What environments offer to agents of an access, and what they withhold and say so."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.envs import metering
from editgym.envs.access import GuardedEnv, Offered, offered, only_offered
from editgym.envs.protocol import (
    AccessError,
    candidate_env,
    edit_env,
    gradient_env,
    gradient_stream,
    gradient_world,
    is_stream,
    open_env,
    open_world,
    stream_env,
)
from envs_registry import environment_spec

STREAM = {"horizon": 2, "edits_per_step": 2, "back_depth": 1}
REWARD = {edit_env, gradient_env}  # a differentiable step turns the access into `gradient`
OF_WORLDS = {
    "reward": REWARD,
    "gradient": {*REWARD, gradient_world},
    "data": {*REWARD, gradient_world, open_env, open_world},
}
OF_STREAMS = {
    "reward": {*REWARD, candidate_env},
    "gradient": {*REWARD, candidate_env, gradient_stream},
    "data": {*REWARD, candidate_env, gradient_stream, open_env, stream_env},
}
EVERY_ACCESS = pytest.mark.parametrize("access", ["reward", "gradient", "data", "oracle"])


def made(access, env_id="MaskWorld-v1", **arguments):
    return gym.make(offered(environment_spec(env_id, arguments), access))


@pytest.fixture(scope="module")
def small_stream(tiny_lm):
    return {"model": tiny_lm, **STREAM}


def fulfilled(env, offers):
    found = set()
    for offer in set().union(*offers.values()):
        try:
            offer(env)
            found.add(offer)
        except AccessError:
            pass
    return found


@EVERY_ACCESS
def test_worlds_offer_what_the_access_allows(access):
    env = made(access)
    assert fulfilled(env, OF_WORLDS) == OF_WORLDS.get(access, OF_WORLDS["data"])
    assert not is_stream(env)


@EVERY_ACCESS
def test_streams_offer_what_the_access_allows(access, small_stream):
    env = made(access, "LifelongLLMEdit-v1", **small_stream)
    assert fulfilled(env, OF_STREAMS) == OF_STREAMS.get(access, OF_STREAMS["data"])
    assert is_stream(env)


@EVERY_ACCESS
def test_an_agent_goes_through_what_it_would_have_gone_through(access):
    plain, guarded = gym.make("MaskWorld-v1"), made(access)
    observations = [env.reset(seed=3) for env in (plain, guarded)]
    np.testing.assert_equal(observations[0], observations[1])
    action = np.random.default_rng(0).uniform(-1, 1, plain.action_space.shape).astype(np.float32)
    np.testing.assert_equal(plain.step(action), guarded.step(action))
    for entry, other in zip(edit_env(plain).journal, edit_env(guarded).journal, strict=True):
        assert torch.equal(entry.update.d, other.update.d)


@pytest.mark.parametrize(
    ("access", "asked", "message"),
    [
        ("reward", "task", "task: an agent with the access reward has none; it is offered with"),
        ("reward", "network", "offered with data and oracle"),
        ("reward", "weights", "offered with gradient and data and oracle"),
        ("data", "unedited", "offered with no access"),
        ("oracle", "task.splits.test.labels", "task.splits.test: for the harness"),
        ("oracle", "task.test_sets(0)", "task.splits.test: for the harness"),
        ("oracle", "task.evaluate(None)", "task.evaluate: for the harness"),
        ("oracle", "evaluate(None)", "evaluate: what an edit does to test data is for the harness"),
        ("data", "task.oracle(0)", "task.oracle: for agents with the access oracle"),
    ],
)
def test_what_is_withheld_is_said_with_who_may_have_it(access, asked, message):
    env = made(access)
    env.reset(seed=0)
    with pytest.raises(AccessError, match=message):
        eval(f"env.unwrapped.{asked}", {"env": env})


def test_what_no_environment_has_is_no_matter_of_access():
    env = made("data")
    with pytest.raises(AttributeError) as caught:
        env.unwrapped.nothing  # noqa: B018
    assert not isinstance(caught.value, AccessError)


def test_a_task_keeps_its_kind_networks_and_training_data():
    env, plain = made("data"), gym.make("MaskWorld-v1")
    shown, task = open_env(env).task, open_env(plain).task
    assert shown is open_env(env).task
    assert type(shown) is type(task)
    assert shown.networks is task.networks
    assert torch.equal(shown.model_split()[0].inputs, task.model_split()[0].inputs)
    assert len(task.splits.test.labels) > 0, "the task itself is as it was"
    assert made("oracle").unwrapped.task.retrain is task.retrain


def test_a_stream_under_gradient_shows_keys_and_scores_but_no_requests(small_stream):
    env = made("gradient", "LifelongLLMEdit-v1", **small_stream)
    env.reset(seed=0)
    process = gradient_stream(env).process
    for name in ("task", "decoder", "stream", "requests", "batch", "prompts"):
        with pytest.raises(AccessError, match=f"process.{name} is for agents with the access data"):
            getattr(process, name)
    assert process.capture.keys
    while not process.over:
        process.advance([])
    assert 0 <= process.score() <= 1
    test = made("gradient", "LifelongLLMEdit-v1", split="test", **small_stream)
    test.reset(seed=0)
    with pytest.raises(AccessError, match=r"process.score: .* for the harness"):
        gradient_stream(test).process.score()


def test_a_vector_environment_offers_no_task_and_steps_as_it_would():
    spec = environment_spec("MaskWorld-v1", {})
    guarded = gym.make_vec(offered(spec, "reward"), num_envs=2)
    plain = gym.make_vec(spec, num_envs=2)
    actions = np.zeros(plain.action_space.shape, np.float32)
    for envs in (plain, guarded):
        envs.reset(seed=1)
    np.testing.assert_equal(plain.step(actions), guarded.step(actions))
    assert guarded.unwrapped.journal(1).steps == 1
    for name in ("task", "candidates"):
        with pytest.raises(AccessError, match=f"{name}: an agent with the access reward"):
            getattr(guarded.unwrapped, name)


def test_an_entry_point_is_that_of_its_class_and_travels():
    entry = offered(environment_spec("MaskWorld-v1", {}), "reward").entry_point
    assert isinstance(entry, Offered)
    for twin in (pickle.loads(pickle.dumps(entry)), copy.deepcopy(entry)):
        assert twin == entry
        assert twin.metadata["render_modes"] == ["rgb_array", "ansi"]
        assert "forget_class" not in twin.checks
        assert "episode_length" in twin.__signature__.parameters
    assert offered(made("reward").spec, "data").entry_point.access == "reward", "given away once"


def test_environments_made_by_their_id_are_offered_too_for_a_while():
    with only_offered("reward", "MaskWorld-v1"):
        for env_id in ("MaskWorld-v1", "editgym/ShiftWorld-v1"):
            assert isinstance(gym.make(env_id).unwrapped, GuardedEnv)
        assert not isinstance(gym.make("CartPole-v1").unwrapped, GuardedEnv)
    assert not isinstance(gym.make("MaskWorld-v1").unwrapped, GuardedEnv)


def test_an_offered_environment_counts_into_the_meters_of_its_spec():
    with metering.count_reward_calls() as meter:
        entry = offered(environment_spec("MaskWorld-v1", {}), "reward").entry_point
        elsewhere = pickle.dumps(entry)
        inherited = list(metering._counters.folders)
        metering._counters.folders.clear()  # as in a process that knows of no meter
        env = pickle.loads(elsewhere)()
        env.reset(seed=0)
        env.step(np.zeros(env.action_space.shape, np.float32))
        assert metering._counters.folders == inherited
    assert meter.calls == 1
