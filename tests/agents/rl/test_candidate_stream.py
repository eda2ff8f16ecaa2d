"""K candidates on one stream of facts, and PPO that learns on them."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import VecMonitor

from agents.catalogue import make_agent
from agents.protocol import Budget
from agents.rl.agent import SB3Agent
from agents.rl.candidate_stream import CandidateStream
from agents.rl.presets import preset
from editgym.envs.lifelong.process import ClosedStreamError
from editgym.envs.lifelong.reward import REWARD_FLOOR
from editgym.envs.metering import count_reward_calls
from envs_registry import environment_spec

K = 3


@pytest.fixture
def arguments(tiny_lm):
    return {
        "model": tiny_lm,
        "sites": ["model.layers.[23].mlp.down_proj"],
        "horizon": 2,
        "edits_per_step": 2,
        "back_depth": 1,
        "step_size": 1e-2,
    }


@pytest.fixture
def make_env(arguments):
    return lambda **others: gym.make("LifelongLLMEdit-v0", **arguments | others).unwrapped


@pytest.fixture
def spec(arguments):
    return lambda evaluation=False, **others: environment_spec(
        "LifelongLLMEdit-v0", arguments | others, evaluation=evaluation
    )


def drawn(env, steps, seed=0):
    return (
        np.random.default_rng(seed)
        .uniform(-1, 1, (steps, K, *env.action_space.shape))
        .astype(np.float32)
    )


def begun(env, seed=3, **arguments):
    stream = CandidateStream(env, K, **arguments)
    stream.seed(seed)
    return stream, stream.reset()


# --- the vector environment -----------------------------------------------------------------------


@pytest.mark.parametrize("baseline", [True, False])
def test_rewards_are_those_of_single_environments_and_the_mean_action_is_applied(
    make_env, baseline
):
    stream, observations = begun(make_env(), baseline=baseline)
    singles = [make_env() for _ in range(K)]
    assert stream.num_envs == K
    for i, single in enumerate(singles):
        assert np.array_equal(single.reset(seed=3)[0], observations[i])
    actions = drawn(stream, 2)
    first = stream.step(actions[0])
    expected = np.array(
        [single.step(action)[1] for single, action in zip(singles, actions[0], strict=True)]
    )
    assert len(set(expected)) == K
    assert first[1] == pytest.approx(expected - baseline * expected.mean(), abs=1e-4)
    assert first[1].dtype == np.float32
    assert not first[2].any()
    applied = make_env()
    applied.reset(seed=3)
    observation, _, info = applied.follow(actions[0].mean(0))
    assert all(np.array_equal(row, observation) for row in first[0])
    assert first[3] == [{**info, "TimeLimit.truncated": False}] * K
    assert first[3][0] is not first[3][1]


def test_options_are_passed_on_once_and_the_next_stream_s_info_is_kept(make_env):
    env = make_env()
    env.reset(seed=1)
    state = env.checkpoint()
    stream, _ = begun(env)
    first = stream.reset_infos
    for action in drawn(stream, 2):
        _, _, dones, infos = stream.step(action)
        assert [info["TimeLimit.truncated"] for info in infos] == [False] * K
    assert dones.all()
    assert stream.reset_infos is not first
    stream.set_options({"restore": state})
    restored = stream.reset()
    assert np.array_equal(restored[0], make_env().reset(seed=1)[0])
    assert not np.array_equal(stream.reset(), restored)
    stream.set_options([{}, {}, {"goal": 1}])
    with pytest.raises(ValueError, match="all slots are served by one environment"):
        stream.reset()


def test_rewards_of_later_steps_are_those_after_the_mean_actions(make_env):
    stream, _ = begun(make_env(), baseline=False)
    actions = drawn(stream, 2)
    stream.step(actions[0])
    rewards = stream.step(actions[1])[1]
    for action, reward in zip(actions[1], rewards, strict=True):
        single = make_env()
        single.reset(seed=3)
        single.step(actions[0].mean(0))
        assert single.step(action)[1] == pytest.approx(reward, abs=1e-4)


def test_the_last_step_resets_and_keeps_what_was_final(make_env):
    stream, start = begun(make_env())
    single = make_env()
    single.reset(seed=3)
    actions = drawn(stream, 3)
    stream.step(actions[0])
    single.follow(actions[0].mean(0))
    observations, rewards, dones, infos = stream.step(actions[1])
    final, over, info = single.follow(actions[1].mean(0))
    assert over
    assert dones.all()
    assert rewards.sum() == pytest.approx(0, abs=1e-5)
    for one in infos:
        assert np.array_equal(one["terminal_observation"], final)
        assert one["TimeLimit.truncated"] is False
        assert {key: one[key] for key in info} == info
    following, _ = single.reset()
    assert np.array_equal(observations, np.repeat(following[None], K, 0))
    assert not np.array_equal(observations, start)
    assert np.isfinite(stream.step(actions[2])[1]).all()
    assert stream.env.process.step_index == 1


def test_one_candidate_keeps_its_reward_and_every_candidate_is_counted_once(make_env):
    alone = CandidateStream(make_env(), 1)
    assert not alone.baseline
    alone.seed(3)
    alone.reset()
    stream, _ = begun(make_env())
    actions = drawn(stream, 1)[0]
    single = make_env()
    single.reset(seed=3)
    for env, given, calls in ((alone, actions[:1], 1), (stream, actions, K)):
        with count_reward_calls() as meter:
            rewards = env.step(given)[1]
        assert meter.calls == calls
        assert rewards.shape == (calls,)
        if calls == 1:
            assert rewards[0] == pytest.approx(single.step(actions[0])[1], abs=1e-4)


def test_equal_actions_have_no_advantage(make_env):
    stream, _ = begun(make_env())
    rewards = stream.step(np.repeat(drawn(stream, 1)[0, :1], K, axis=0))[1]
    assert np.abs(rewards).max() < 1e-5


def test_seeds_are_used_once_and_slots_share_the_environment(make_env):
    stream, first = begun(make_env())
    assert not np.array_equal(stream.reset(), first)
    stream.seed(3)
    assert np.array_equal(stream.reset(), first)
    assert stream.get_attr("episode_length") == [2] * K
    assert stream.get_attr("render_mode", indices=0) == [None]
    stream.set_attr("render_mode", "ansi")
    assert stream.get_attr("render_mode", [0, 2]) == ["ansi", "ansi"]
    assert len(stream.env_method("training_free_action")) == K
    assert stream.env_is_wrapped(VecMonitor) == [False] * K


def test_frames_are_of_the_one_stream(make_env):
    stream, _ = begun(make_env(render_mode="rgb_array"))
    (frame,) = stream.get_images()
    assert frame.shape == (360, 900, 3)
    stream.close()


def test_factors_and_closed_streams_are_refused(make_env):
    with pytest.raises(ValueError, match='action must be "coefficients"'):
        CandidateStream(make_env(action="factors"), K)
    stream, _ = begun(make_env(split="validation"))
    with pytest.raises(ClosedStreamError, match="has no rewards"):
        stream.step(drawn(stream, 1)[0])


# --- PPO ------------------------------------------------------------------------------------------


def small(**settings):
    return make_agent(
        "ppo", **{"num_envs": 4, "n_steps": 2, "batch_size": 8, "n_epochs": 2} | settings
    )


def test_ppo_learns_two_rollouts_is_saved_loaded_and_edits_the_test_split(spec, tmp_path):
    agent = small()
    with count_reward_calls() as meter:
        agent.learn(spec(), Budget(reward_calls=17), seed=0)
    assert meter.calls == 16, (
        "two rollouts of four candidates in two steps, and no call more than is paid for"
    )
    assert agent.model.num_timesteps == 16
    env = gym.make(spec(evaluation=True)).unwrapped
    assert env.process.settings.split == "test"
    journal = agent.edit(env)
    assert journal.steps == 2
    metrics = env.evaluate(journal).metrics
    assert 0 <= metrics["locality"] <= 1
    agent.save(tmp_path)
    again = SB3Agent.load(tmp_path)
    assert again.config == agent.config
    twice = gym.make(spec(evaluation=True)).unwrapped
    env.reset(seed=1)
    twice.reset(seed=1)
    for one, other in zip(agent.edit(env), again.edit(twice), strict=True):
        assert torch.equal(one.update.matrix(), other.update.matrix())


def test_equal_seeds_give_equal_policies(spec):
    parameters = []
    for seed in (0, 0, 1):
        agent = small()
        agent.learn(spec(), Budget(reward_calls=8), seed=seed)
        parameters.append(
            torch.cat([p.detach().flatten() for p in agent.model.policy.parameters()])
        )
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])


@pytest.mark.parametrize("start", [0.5, 0])
def test_ppos_first_mean_action_is_the_training_free_one(spec, start):
    agent = small(start=start, learning_rate=0.0)
    agent.learn(spec(), Budget(reward_calls=8), seed=0)
    env = gym.make(spec(evaluation=True)).unwrapped
    observation, _ = env.reset(seed=0)
    action, _ = agent.model.predict(observation, deterministic=True)
    distance = np.abs(action - env.training_free_action()).max()
    assert distance < 0.1 if start else distance > 0.25


def test_learning_takes_the_presets_own_environment(spec, monkeypatch):
    assert preset("ppo", "knowledge/factworld")["train_env"] == {
        "back_depth": 1,
        "locality_weight": 8.0,
    }
    assert (
        SB3Agent("ppo").resolved(gym.spec("LifelongLLMEdit-v0")).train_env["locality_weight"] == 8.0
    )
    seen = []
    build = SB3Agent.build

    def watched(self, env, *rest):
        seen.append(env.get_attr("process")[0].settings)
        return build(self, env, *rest)

    monkeypatch.setattr(SB3Agent, "build", watched)
    small(train_env={"back_depth": 0, "edits_per_step": 1}).learn(
        spec(), Budget(reward_calls=8), seed=0
    )
    assert (seen[0].reward.back_depth, seen[0].edits_per_step, seen[0].split) == (0, 1, "policy")
    assert spec().kwargs["back_depth"] == 1


def test_an_action_on_a_stream_is_no_refinement_of_the_one_before(spec):
    agent = small(refine=0.0)
    agent.learn(spec(), Budget(reward_calls=8), seed=0)
    env = gym.make(spec(evaluation=True)).unwrapped
    journal = agent.edit(env)
    assert [entry.step for entry in journal] == [0, 0, 1, 1]
    assert all(entry.update.matrix().abs().max() > 0 for entry in journal)


def test_a_model_that_has_collapsed_has_the_least_reward_and_the_stream_goes_on(
    make_env, monkeypatch
):
    env = make_env()
    stream = CandidateStream(env, K, baseline=False)
    stream.seed(0)
    stream.reset()

    def collapsed(*_):
        raise FloatingPointError("keys are not finite")

    monkeypatch.setattr(type(env), "candidate_rewards", collapsed)
    _, rewards, over, _ = stream.step(drawn(env, 1)[0])
    assert rewards.tolist() == [REWARD_FLOOR] * K
    assert not over.any()
