"""The settings of agents of Stable-Baselines3: presets, what is given, sizes, and what is saved."""

import inspect
import json
import random

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.catalogue import make_agent
from agents.protocol import Budget
from agents.rl.agent import SB3Agent
from agents.rl.general_editor import GeneralEditor
from agents.rl.presets import ALGORITHMS, LONG_STREAM, preset
from editgym.envs.sb3 import monitored
from envs_registry import environment_spec

TINY = {
    "ppo": {"rollout": 8, "batch_size": 8},
    "sac": {"num_envs": 4, "learning_starts": 4, "batch_size": 4, "buffer_size": 100},
    "ars": {"n_delta": 2},
}
DIGITS = environment_spec("MaskWorld-v0", {})


def test_what_is_given_goes_before_the_preset_and_the_preset_before_defaults():
    found = make_agent("ppo", learning_rate=1e-3, sketch=8).resolved(DIGITS).as_dict()
    assert "hyperparameters" not in found
    assert (found["learning_rate"], found["sketch"]) == (1e-3, 8)
    assert (found["rollout"], found["refine"], found["n_epochs"]) == (1_024, 0.2, 5)
    assert found == {**SB3Agent.settings_type().as_dict(), **preset("ppo", "")} | {
        "learning_rate": 1e-3,
        "sketch": 8,
    }
    assert json.loads(json.dumps(found)) == found


def test_what_is_given_of_a_mapping_leaves_the_rest_of_the_preset_s():
    found = make_agent("ppo", policy_kwargs={"log_std_init": -2}).resolved(DIGITS)
    assert found.hyperparameters["policy_kwargs"] == {
        "net_arch": [128, 128],
        "activation_fn": "relu",
        "log_std_init": -2,
    }
    stream = environment_spec("LifelongLLMEdit-v0", {})
    agent = make_agent("ppo", train_env={"locality_weight": 3.0})
    assert agent.resolved(stream).train_env == {"back_depth": 1, "locality_weight": 3.0}
    assert agent.config["train_env"] == {"locality_weight": 3.0}
    wider = GeneralEditor(policy_kwargs={}).resolved(DIGITS)
    assert wider.hyperparameters["policy_kwargs"] == {"log_std_init": -1.5}


@pytest.mark.parametrize("algorithm", ["ppo", "sac", "ars"])
def test_learning_and_loading_leave_the_process_its_random_numbers(algorithm, tmp_path):
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    agent = make_agent(algorithm, **TINY[algorithm])
    agent.learn(environment_spec("ShiftWorld-v0", {"sites": ["fc3"]}), Budget(16), seed=5)
    agent.save(tmp_path)
    SB3Agent.load(tmp_path)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "weight"),
    [
        ({}, 8.0),
        ({"horizon": LONG_STREAM - 1}, 8.0),
        ({"horizon": LONG_STREAM}, 30.0),
        ({"horizon": 100, "task": "knowledge/zsre"}, 30.0),
    ],
)
def test_longer_streams_are_learned_with_more_weight_on_locality(arguments, weight):
    spec = environment_spec("LifelongLLMEdit-v0", arguments)
    found = make_agent("ppo").resolved(spec)
    assert found.train_env == {"back_depth": 1, "locality_weight": weight}
    assert found.hyperparameters["n_steps"] == 5


def test_a_rollout_is_divided_into_episodes():
    settings = make_agent("ppo").resolved(DIGITS)
    assert (settings.sized(4).num_envs, settings.sized(4).hyperparameters["n_steps"]) == (256, 4)
    assert make_agent("ppo", num_envs=3).resolved(DIGITS).sized(4).num_envs == 3
    assert make_agent("ppo", n_steps=8).resolved(DIGITS).sized(4).num_envs == 128
    assert make_agent("ppo", rollout=2).resolved(DIGITS).sized(4).num_envs == 1
    for given, steps in (
        ({}, 128),
        ({"rollout": 100}, 12),
        ({"rollout": 8}, 4),
        ({"n_steps": 6}, 6),
    ):
        sized = make_agent("ppo", num_envs=8, **given).resolved(DIGITS).sized(4)
        assert (sized.num_envs, sized.hyperparameters["n_steps"]) == (8, steps)
    assert "n_steps" not in settings.hyperparameters, "the settings themselves stay"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_preset_is_within_its_ranges(algorithm):
    for spec in (DIGITS, environment_spec("LifelongLLMEdit-v0", {})):
        settings = make_agent(algorithm).resolved(spec)
        assert settings.sized(1).num_envs >= 1
        assert SB3Agent.settings_type.of(settings.as_dict()) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_envs": 0}, "num_envs must be 1 or more, a whole number"),
        ({"rollout": 2.5}, "rollout must be 1 or more"),
        ({"sketch": -1}, "sketch must be 0 or more"),
        ({"n_steps": 0}, "n_steps must be 1 or more"),
        ({"batch_size": "abc"}, "batch_size must be 1 or more"),
        ({"policy_kwargs": 3}, "policy_kwargs must be a dict"),
        ({"shared_batch": "yes"}, "shared_batch must be one of False, True"),
        ({"refine": -1}, "refine must be 0 or more"),
        ({"final_log_std": float("nan")}, "final_log_std must be a finite number, or None"),
    ],
)
def test_a_setting_out_of_its_range_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        make_agent("ppo", **given)


@pytest.mark.parametrize(
    ("algorithm", "given", "message"),
    [
        (
            "sac",
            {"final_log_std": -2.0},
            "final_log_std must be None: sac does not learn from roll",
        ),
        ("ars", {"rollout": 64}, "rollout must be None: ars does not learn from rollouts, got 64"),
        (
            "ppo",
            {"rollout": 64, "num_envs": 8, "n_steps": 4},
            "rollout: 64 is given.*product is 32;",
        ),
    ],
)
def test_a_setting_that_an_algorithm_cannot_use_is_refused(algorithm, given, message):
    with pytest.raises(ValueError, match=message):
        make_agent(algorithm, **given)


@pytest.mark.parametrize(
    ("algorithm", "given", "message"),
    [
        ("ppo", {"batch_size": 1}, "batch_size must be 2 or more"),
        ("ppo", {"ent_coef": "auto"}, "ent_coef must be a finite number: ppo does not learn it"),
        ("a2c", {"ent_coef": "auto_0.1"}, "ent_coef must be a finite number: a2c does"),
        ("sac", {"ent_coef": "automatic"}, 'ent_coef must be a finite number, "auto", or'),
        ("sac", {"ent_coef": "auto_-1"}, 'ent_coef must be a finite number, "auto", or'),
        ("tqc", {"target_entropy": "auto_1"}, "target_entropy must be a finite number, or"),
        ("td3", {"action_noise": 0.1}, "td3 takes no hyperparameter action_noise=0.1"),
        ("td3", {"replay_buffer_class": "foo"}, "takes no hyperparameter replay_buffer_class="),
        ("td3", {"replay_buffer_kwargs": {"size": 3}}, "replay_buffer_kwargs must be a dict with"),
        ("ppo", {"rollout_buffer_class": "x"}, "takes no hyperparameter rollout_buffer_class"),
        ("ppo", {"tensorboard_log": 3}, "tensorboard_log must be a text, or None"),
        ("ppo", {"policy_kwargs": {"net_arch": ["a"]}}, "net_arch must be a list of widths"),
        ("ppo", {"policy_kwargs": {"net_arch": [0]}}, "net_arch must be a list of widths"),
        ("ppo", {"policy_kwargs": {"net_arch": {"pi": 8}}}, "net_arch must be a list of widths"),
        ("ppo", {"policy_kwargs": {"optimizer_class": "Adam"}}, "takes no argument optimizer_cla"),
        ("sac", {"policy_kwargs": {"n_critics": 0}}, "n_critics must be 1 or more"),
    ],
)
def test_what_sb3_would_only_refuse_while_it_learns_is_refused_before(algorithm, given, message):
    with pytest.raises(ValueError, match=message):
        make_agent(algorithm, **given)


@pytest.mark.parametrize(
    ("algorithm", "given"),
    [
        ("ppo", {"batch_size": 1, "normalize_advantage": False}),
        ("sac", {"ent_coef": "auto_0.1"}),
        ("sac", {"ent_coef": 0.2, "replay_buffer_kwargs": {"handle_timeout_termination": False}}),
        ("td3", {"train_freq": [1, "episode"], "num_envs": 1}),
        ("ppo", {"policy_kwargs": {"net_arch": {"pi": [8], "vf": []}}}),
        ("sac", {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [4, 4]}}}),
    ],
)
def test_what_sb3_takes_is_taken(algorithm, given):
    agent = make_agent(algorithm, **{**TINY.get(algorithm, TINY["sac"]), **given})
    spec = environment_spec("ShiftWorld-v0", {"sites": ["fc3"], "rank": 1})
    agent.learn(spec, Budget(reward_calls=8), seed=0)
    assert agent.model.num_timesteps == 8


def test_whole_episodes_are_learned_from_by_one_candidate():
    agent = make_agent("td3", train_freq=[1, "episode"])
    with pytest.raises(ValueError, match=r"train_freq must be in steps, as 16 candidates learn at"):
        agent.resolved(DIGITS)


def test_what_else_sb3_refuses_is_one_message():
    agent = make_agent("ppo", **TINY["ppo"], policy_kwargs={"optimizer_kwargs": {"speed": 3}})
    with pytest.raises(ValueError, match=r"ppo cannot be made with .*'speed': 3.*: .*'speed'"):
        agent.learn(environment_spec("ShiftWorld-v0", {}), Budget(reward_calls=8), seed=0)


@pytest.mark.parametrize("algorithm", ["ars", "ppo"])
def test_a_learning_rate_that_nobody_gives_falls_from_the_algorithm_s_own(algorithm):
    size = {"ars": {"n_delta": 1, "sketch": 0}, "ppo": {"n_steps": 2}}[algorithm]
    agent = make_agent(algorithm, linear_decay=True, num_envs=2, **size)
    env = monitored(gym.make_vec("ShiftWorld-v0", num_envs=2))
    agent.train(env, None, agent.resolved(None), Budget(reward_calls=4), 0, "cpu")
    rate = agent.model.learning_rate
    assert (rate(1.0), rate(0.5)) == {"ars": (0.02, 0.01), "ppo": (3e-4, 1.5e-4)}[algorithm]


def test_the_general_editor_s_noise_may_be_the_algorithm_s_own():
    own = {"policy_kwargs": {"log_std_init": 0.0}, "final_log_std": None}
    agent = GeneralEditor(rollout=16, batch_size=16, **own)
    seen = {"observe_task": True, "observe_parameters": ["fc3.weight"]}
    spec = environment_spec("ShiftWorld-v0", {"goals": [0, 1], **seen})
    agent.learn(spec, Budget(reward_calls=16), seed=0)
    assert agent.model.policy.log_std.abs().max() < 0.1


def test_an_agent_keeps_what_it_was_given_and_saves_what_it_was_trained_with(tmp_path):
    given = {"num_envs": 4, "rollout": 8, "batch_size": 8, "refine": 0.5, "sketch": 2}
    agent = make_agent("ppo", **given)
    spec = environment_spec("ShiftWorld-v0", {"sites": ["fc3"], "rank": 1, "episode_length": 2})
    agent.learn(spec, Budget(reward_calls=8), seed=0)
    agent.save(tmp_path)
    assert agent.config == {"algorithm": "ppo", **given}
    again = SB3Agent.load(tmp_path)
    assert again.config == agent.config
    assert again.settings == agent.settings
    assert again.settings.hyperparameters["n_steps"] == 2
    saved = json.loads((tmp_path / "settings.json").read_text())
    assert saved == agent.settings.as_dict()
    saved["refine"] = 0.25
    (tmp_path / "settings.json").write_text(json.dumps(saved))
    assert SB3Agent.load(tmp_path).settings.refine == 0.25


def test_the_general_editor_has_a_preset_of_its_own():
    found = GeneralEditor(hidden=8).resolved(DIGITS).as_dict()
    assert (found["hidden"], found["rollout"], found["final_log_std"]) == (8, 512, -2.5)
    assert GeneralEditor().resolved(gym.spec("MaskWorld-v0")).hidden == 32


@pytest.mark.parametrize("cls", [SB3Agent, GeneralEditor])
def test_the_signature_shows_the_settings(cls):
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) == "algorithm"
    assert {"num_envs", "rollout", "refine", "train_env"} <= set(parameters)
    assert parameters["hyperparameters"].kind is inspect.Parameter.VAR_KEYWORD
    assert ("hidden" in parameters) == (cls is GeneralEditor)
