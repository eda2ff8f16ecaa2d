"""Every agent keeps the protocol: it stays in its budget, edits, and is the same after a save and a
load."""

import itertools
import pickle
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import protocol
from agents.catalogue import AGENTS, SB3_ALGORITHMS, agent_class, agent_names, make_agent
from agents.debiasing.episode import DebiasingAgent
from agents.editors.stream import StreamEditor
from agents.protocol import Agent, Budget, Stopwatch, Unsupported
from agents.rl.algorithms import algorithm_class
from agents.rl.budget import LinearDecay, steps_between_updates
from editgym.envs.metering import count_reward_calls

SMALL = {
    **{
        name: {"num_envs": 8, "n_steps": 8, "batch_size": 64}
        for name in ("ppo", "trpo", "recurrent_ppo")
    },
    "a2c": {"num_envs": 8, "n_steps": 8},
    **{
        name: {"num_envs": 8, "learning_starts": 16, "batch_size": 16, "buffer_size": 200}
        for name in ("sac", "td3", "ddpg", "tqc", "crossq")
    },
    "ars": {"n_delta": 4},
    "cmaes": {"population": 8},
    "random": {"num_envs": 8},
}


def small(name):
    return make_agent(name, **SMALL.get(name, {}))


def same_edits(one, other):
    return len(one) == len(other) and all(
        (
            torch.equal(a.update.matrix(), b.update.matrix())
            if hasattr(a, "update")
            else all(torch.equal(a.tensors[k], b.tensors[k]) for k in a.tensors)
        )
        for a, b in zip(one, other, strict=True)
    )


ON_WORLDS = [
    name
    for name in agent_names()
    if name != "retrain" and not issubclass(agent_class(name), (StreamEditor, DebiasingAgent))
]


@pytest.mark.parametrize("name", ON_WORLDS)
def test_learns_within_budget_edits_and_survives_save_and_load(name, tmp_path):
    spec, agent = gym.spec("MaskWorld-v0"), small(name)
    assert isinstance(agent, Agent)
    calls = 40 if name == "ars" else 200  # its linear policy has 2.6 million parameters
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=calls), seed=0)
    assert meter.calls <= calls
    env = gym.make(spec)
    journal = agent.edit(env)
    assert journal.base_hash == env.unwrapped.network.base_hash
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent")
    assert again.name == name
    assert same_edits(journal, again.edit(env))


@pytest.mark.parametrize("name", ["ppo", "sac", "cmaes", "random"])
def test_equal_seeds_give_equal_agents_and_other_seeds_others(name):
    spec = gym.spec("ShiftWorld-v0")
    journals = []
    for seed in (0, 0, 1):
        agent = small(name)
        agent.learn(spec, Budget(reward_calls=128), seed=seed)
        journals.append(agent.edit(gym.make(spec)))
    assert same_edits(journals[0], journals[1])
    assert not same_edits(journals[0], journals[2])


@pytest.mark.parametrize("name", ["random", "ppo"])
def test_seconds_end_the_learning(name):
    agent = small(name)
    with count_reward_calls() as meter:
        agent.learn(gym.spec("MaskWorld-v0"), Budget(seconds=0.5), seed=0)
    assert 0 < meter.calls < 100_000


@pytest.mark.parametrize(
    ("name", "config", "steps"),
    [
        ("ppo", {}, 2_048),
        ("ppo", {"n_steps": 4}, 4),
        ("sac", {}, 1),
        ("sac", {"n_steps": 3}, 1),
        ("sac", {"train_freq": 50}, 50),
        ("ddpg", {"train_freq": (2, "episode")}, 6),
        ("ars", {"n_delta": 5}, 30),
        ("ars", {"n_delta": 5, "n_eval_episodes": 2}, 60),
    ],
)
def test_an_algorithm_is_given_whole_pieces_of_steps(name, config, steps):
    """Also those that its class decides on."""
    assert steps_between_updates(algorithm_class(name), config, episode=3) == steps


@pytest.mark.parametrize(("slots", "episodes", "steps"), [(4, 4, 12), (4, 5, 24), (4, 1, 12)])
def test_slots_divide_the_episodes_of_an_evaluation(slots, episodes, steps):
    config = {"n_delta": 2, "n_eval_episodes": episodes}
    assert steps_between_updates(algorithm_class("ars"), config, 3, slots) == steps


@pytest.mark.parametrize(("slots", "episodes"), [(1, 1), (4, 4), (4, 2), (2, 4), (4, 1), (1, 4)])
def test_ars_spends_its_budget_whatever_its_slots(slots, episodes):
    agent = make_agent("ars", n_delta=2, num_envs=slots, n_eval_episodes=episodes)
    spec = gym.make("ShiftWorld-v0", episode_length=2, sites=["fc3"], rank=1).spec
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=128), seed=0)
    assert meter.calls == agent.model.num_timesteps == 128


@pytest.mark.parametrize(
    ("name", "config"),
    [("ppo", {"rollout": 16, "batch_size": 8}), ("sac", {"num_envs": 8, "learning_starts": 8})],
)
def test_a_policy_that_diverges_is_an_error_and_is_not_kept(name, config, tmp_path):
    agent = make_agent(name, learning_rate=1e30, **config)
    spec = gym.make("ShiftWorld-v0", episode_length=2, sites=["fc3"], rank=1).spec
    message = f"{name}: after .* reward calls its policy holds .* lower learning_rate"
    with pytest.raises(ValueError, match=message):
        agent.learn(spec, Budget(reward_calls=64), seed=0, out=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("evaluated", [{}, {"n_eval_episodes": 3}, {"num_envs": 2}])
def test_a_population_and_its_episodes_are_within_the_budget(evaluated):
    agent = make_agent("ars", n_delta=2, **evaluated)
    with count_reward_calls() as meter:
        agent.learn(gym.spec("MaskWorld-v1"), Budget(reward_calls=27), seed=0)
    assert 12 <= meter.calls <= 27
    if "n_eval_episodes" in evaluated:
        assert meter.calls == 24
        with pytest.raises(ValueError, match="do not pay for one rollout of 12"):
            agent.learn(gym.spec("MaskWorld-v1"), Budget(reward_calls=11), seed=0)


def test_an_off_policy_budget_ends_with_a_whole_piece():
    agent = make_agent("sac", **{**SMALL["sac"], "train_freq": [5, "step"]})
    with count_reward_calls() as meter:
        agent.learn(gym.spec("MaskWorld-v0"), Budget(reward_calls=100), seed=0)
    assert meter.calls == 80  # 8 candidates, 5 steps


def test_schedules_follow_the_seconds_where_these_are_the_budget(monkeypatch):
    times = iter((0.0, 0.0, 5.0, 5.0, 10.0, 10.0, 20.0, 20.0, 20.0))
    monkeypatch.setattr(protocol, "time", SimpleNamespace(monotonic=lambda: next(times)))
    watch = Stopwatch(10.0, 0.0)
    rate, watchless = LinearDecay(0.8, watch), LinearDecay(0.8)
    seen = [(rate(1.0), watchless(1.0), watch.expired) for _ in range(4)]
    assert seen == [(0.8, 0.8, False), (0.4, 0.8, False), (0.0, 0.8, True), (0.0, 0.8, True)]
    assert (rate(0.25), watchless(0.25)) == (0.0, 0.2)
    assert pickle.loads(pickle.dumps(rate))(0.5) == 0.4


def test_noise_falls_with_the_seconds(monkeypatch):
    looks = itertools.count()
    monkeypatch.setattr(Stopwatch, "left", property(lambda watch: max(0.0, 1 - next(looks) / 200)))
    agent = make_agent(
        "ppo", **SMALL["ppo"], policy_kwargs={"log_std_init": -1.0}, final_log_std=-3.0
    )
    agent.learn(gym.spec("MaskWorld-v0"), Budget(seconds=1.0), seed=0)
    assert float(agent.model.policy.log_std.detach().mean()) < -2.5


def test_cmaes_learns_to_forget():
    spec = gym.spec("MaskWorld-v0")
    agent, env = make_agent("cmaes"), gym.make(spec)
    agent.learn(spec, Budget(reward_calls=5_120), seed=0)
    agent.edit(env)
    metrics = env.unwrapped.task.evaluate(env.unwrapped.journal)
    assert metrics["forget_accuracy"] < metrics["forget_accuracy_before"] - 0.2
    assert metrics["retain_accuracy"] > metrics["retain_accuracy_before"] - 0.1


def test_no_edit_leaves_the_weights_bitwise():
    spec, agent = gym.spec("ShiftWorld-v0"), make_agent("no_edit")
    agent.learn(spec, Budget(reward_calls=0), seed=0)
    env = gym.make(spec)
    agent.edit(env)
    network = env.unwrapped.network
    assert all(
        torch.equal(now, base)
        for now, base in zip(network.weights, network.base_weights, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("pppo", {}, "there is no 'pppo'.*ppo"),
        ("no.such.module:Agent", {}, "cannot import"),
        ("agents.protocol:Budget", {}, "lacks learn, edit"),
        ("cmaes", {"sigmas": 1}, "sigmas.*its arguments: sigma"),
        ("cmaes", {"sigma": -1}, "sigma must be greater than 0"),
    ],
)
def test_a_wrong_agent_or_argument_is_named(name, config, message):
    with pytest.raises(ValueError, match=message):
        make_agent(name, **config)


@pytest.mark.parametrize(
    ("config", "budget", "message"),
    [
        ({"n_stepss": 3}, Budget(2_048), "takes no hyperparameter n_stepss"),
        ({}, Budget(100), "100 reward calls do not pay for one rollout of 1024"),
        ({}, Budget(), "needs reward_calls or seconds"),
        ({"rollout": None}, Budget(2_048), "num_envs: expected"),
        (
            {"policy_kwargs": {"activation_fn": "gelu"}},
            Budget(2_048),
            "activation_fn: expected one of relu, tanh, elu",
        ),
    ],
)
def test_ppo_names_what_it_cannot_do(config, budget, message):
    with pytest.raises(ValueError, match=message):
        make_agent("ppo", **config).learn(gym.spec("MaskWorld-v0"), budget, seed=0)


@pytest.mark.parametrize("name", ["ppo", "cmaes"])
def test_an_untrained_agent_does_not_edit_or_save(name, tmp_path):
    agent = make_agent(name)
    with pytest.raises(RuntimeError, match=r"call learn\(\)"):
        agent.edit(gym.make("MaskWorld-v0"))
    with pytest.raises(RuntimeError, match=r"call learn\(\)"):
        agent.save(tmp_path)


def test_every_row_of_the_catalogue_is_a_class():
    for name in (*AGENTS, *SB3_ALGORITHMS):
        assert isinstance(agent_class(name), type)


@pytest.mark.parametrize("name", ["random", "cmaes"])
@pytest.mark.parametrize("several", [{"goals": [3, 8]}, {"networks": [0, 1]}])
def test_candidates_of_several_goals_or_networks_are_not_compared(name, several):
    spec = gym.make("ShiftWorld-v0", **several).spec
    with pytest.raises(Unsupported, match=r"one goal on one network.*2 (goals and 1|networks)"):
        small(name).learn(spec, Budget(reward_calls=64), seed=0)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("no_edit", {}),
        ("random_actions", {}),
        ("random", {"num_envs": 3}),
        ("cmaes", {"sigma": 0.1, "population": 4, "full_covariance": 9, "start": 0.0}),
    ],
)
def test_an_open_loop_agents_arguments_survive_save_and_load(name, config, tmp_path):
    agent = make_agent(name, **config)
    agent.learn(gym.spec("MaskWorld-v0"), Budget(reward_calls=4), seed=0)
    agent.save(tmp_path)
    again = type(agent).load(tmp_path)
    assert (again.config, vars(again).keys()) == (config, vars(agent).keys())
    assert all(getattr(again.settings, argument) == value for argument, value in config.items())
    (tmp_path / "agent.json").unlink()
    assert np.array_equal(type(agent).load(tmp_path).actions, agent.actions)
    with pytest.raises(FileNotFoundError, match=r"no agent in .*nowhere"):
        type(agent).load(tmp_path / "nowhere")


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="reward_calls must be 0 or more"):
        Budget(reward_calls=-1)


@pytest.mark.parametrize("name", ["random", "random_actions", "no_edit", "reward_ascent"])
def test_an_open_loop_agent_refuses_episodes_that_it_did_not_learn_on(name):
    agent = make_agent(name)
    agent.learn(gym.spec("ShiftWorld-v1"), Budget(reward_calls=64), seed=0)
    env = gym.make("ShiftWorld-v1", episode_length=3)
    with pytest.raises(Unsupported, match=r"\(1, 4096\), and an episode .* takes \(3, 4096\)"):
        agent.edit(env)
    with pytest.raises(Unsupported, match=r"takes \(1, 1280\)"):
        agent.edit(gym.make("ShiftWorld-v1", rank=8))
    assert len(agent.edit(gym.make("ShiftWorld-v1", episode_length=3, max_episode_steps=1))) == 1


@pytest.mark.parametrize(
    ("name", "settings", "calls"),
    [
        ("random", {"num_envs": 8}, 32),
        ("cmaes", {"population": 8}, 32),
        ("reward_ascent", {"steps": 3}, 6),
        ("ppo", {"rollout": 16, "batch_size": 16}, 32),
    ],
)
def test_an_episode_that_the_spec_truncates_is_as_long_as_that(name, settings, calls):
    spec = gym.make("ShiftWorld-v1", episode_length=3, max_episode_steps=2).spec
    agent = make_agent(name, **settings)
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=36), seed=0)
    assert meter.calls == calls
    assert len(agent.edit(gym.make(spec))) == 2


def test_a_truncated_sequence_is_kept_for_its_own_return():
    spec = gym.make("ShiftWorld-v1", episode_length=2, max_episode_steps=1).spec
    agent = make_agent("random", num_envs=32)
    agent.learn(spec, Budget(reward_calls=32), seed=0)
    env = gym.make_vec(spec, num_envs=32, shared_batch=True)
    random = np.random.default_rng(0)
    random.uniform(-1, 1, env.single_action_space.shape)
    drawn = random.uniform(-1, 1, env.action_space.shape).astype(np.float32)
    env.reset(seed=0)
    assert np.array_equal(agent.actions, drawn[env.step(drawn)[1].argmax()][None])


def test_longer_episodes_are_searched_as_one_sequence():
    spec = gym.make("ShiftWorld-v0", episode_length=3).spec
    agent = small("random")
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=100), seed=0)
    assert meter.calls == 96  # 4 generations of 8 sequences of 3 edits
    assert np.asarray(agent.actions).shape[0] == 3
    assert len(agent.edit(gym.make(spec))) == 3


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "calls"),
    [
        ("random", {"num_envs": 8}, 16),
        ("cmaes", {"population": 8}, 16),
        ("reward_ascent", {"steps": 2}, 2),
    ],
)
def test_what_was_found_before_an_interruption_is_kept(name, config, calls, monkeypatch, tmp_path):
    spec = gym.make("ShiftWorld-v1", sites=["fc3"], rank=1).spec
    whole, agent = make_agent(name, **config), make_agent(name, **config)
    whole.learn(spec, Budget(reward_calls=calls), seed=0)
    made = itertools.count()

    def stopped(self):
        if next(made) == 2:
            raise KeyboardInterrupt
        return False

    if name == "reward_ascent":  # or it would be at its end before it is asked again
        agent = make_agent(name, steps=3)
    monkeypatch.setattr(Stopwatch, "expired", property(stopped))
    with pytest.raises(KeyboardInterrupt):
        agent.learn(spec, Budget(seconds=9_999), seed=0)
    agent.save(tmp_path)
    assert type(agent).load(tmp_path).actions.shape == whole.actions.shape
    if name != "reward_ascent":  # its learning rate falls by the steps that it was to make
        assert np.array_equal(agent.actions, whole.actions)


@pytest.mark.parametrize("name", ["random", "cmaes", "reward_ascent", "ppo"])
def test_an_interruption_before_anything_was_found_leaves_nothing_to_save(
    name, monkeypatch, tmp_path
):
    def stopped(*_):
        raise KeyboardInterrupt

    spec = gym.make("ShiftWorld-v1", sites=["fc3"], rank=1).spec
    agent = small(name)
    if name != "ppo":
        agent.learn(spec, Budget(reward_calls=8), seed=0)
    monkeypatch.setattr(Stopwatch, "expired", property(stopped))
    monkeypatch.setattr("editgym.envs.sb3.SB3VectorEnv.reset", stopped)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(spec, Budget(reward_calls=64), seed=1)
    with pytest.raises(RuntimeError, match="has nothing to save"):
        agent.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
