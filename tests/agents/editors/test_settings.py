"""Tuned settings of the editors: what every one works with, in streams that they were tuned for and
elsewhere."""

import gymnasium as gym
import pytest

from agents.catalogue import agent_class, make_agent
from agents.editors.settings import TUNED
from agents.protocol import Budget
from benchmarks.suites.cells import SUITES
from editgym.envs.lifelong_llm_edit import LifelongLLMEditEnv
from envs_registry import environment_spec

FOURTH = "model.layers.4.mlp.down_proj"
LATE = [f"model.layers.{layer}.mlp.down_proj" for layer in (3, 4, 5)]
SITES = ["model.layers.[12].mlp.down_proj", "model.layers.[345].mlp.*"]
TARGET = {
    "tokens": 50_000,
    "steps": 40,
    "learning_rate": 0.5,
    "max_norm": 0.8,
    "kl_weight": 0.0,
    "decay": 0.0,
    "contexts": 1,
    "stop_loss": 0.0,
}
# What an editor has by itself, and what it has on streams of 20 and of 100 steps.
DEFAULTS = {
    "ft_m": {"site": None, "steps": 25, "learning_rate": 4e-3, "stop_loss": 0.1},
    "ft_l": {"site": None, "steps": 25, "learning_rate": 5e-3, "stop_loss": 0.1, "epsilon": 0.5},
    "loc_ft_bf": {
        "site": None,
        "epochs": 25,
        "learning_rate": 1e-2,
        "batch_size": 32,
        "seed": 0,
    },
    "lora_merge": {
        "sites": None,
        "rank": 4,
        "steps": 50,
        "learning_rate": 1.5e-3,
        "stop_loss": 0.1,
        "seed": 0,
    },
    "rome": {"site": None, **TARGET},
    "memit": {"covariance_weight": 10.0, "sites": None, **TARGET},
    "memit_seq": {"covariance_weight": 100.0, "ridge": 0.01, "sites": None, **TARGET},
    "alphaedit": {"threshold": 3.0, "ridge": 100.0, "sites": None, **TARGET},
    "ultraedit": {"step_size": None, "sites": None, "passes": 1, "statistics": "site"},
    "grace": {
        "site": None,
        "radius": 0.8,
        "steps": 50,
        "learning_rate": 0.3,
        "stop_loss": 0.05,
    },
    "in_context": {},
}
GROUPS = {
    "prompts": 5,
    "samples": 4,
    "updates": 2,
    "learning_rate": 2e-3,
    "rank": 8,
    "clip": 0.2,
    "kl_weight": 1e-3,
    "temperature": 1.0,
    "seed": 0,
}
SHORT = DEFAULTS | {
    "ft_m": DEFAULTS["ft_m"] | {"site": FOURTH, "learning_rate": 4e-3},
    "ft_l": DEFAULTS["ft_l"] | {"site": FOURTH, "learning_rate": 5e-3, "epsilon": 0.8},
    "rome": DEFAULTS["rome"] | {"max_norm": 0.7},
    "ultraedit": DEFAULTS["ultraedit"] | {"step_size": 1e-3},
}
LONG = SHORT | {
    "ft_l": SHORT["ft_l"] | {"epsilon": 1.2},
    "memit_seq": SHORT["memit_seq"] | {"covariance_weight": 300.0},
    "ultraedit": SHORT["ultraedit"] | {"step_size": 1.4e-3},
}
# Further configurations in the suites.
UltraEdit = DEFAULTS["ultraedit"]
VARIANTS = {
    20: [
        UltraEdit | {"sites": LATE, "step_size": 6e-3},
        UltraEdit | {"passes": 3, "step_size": 7e-4},
    ],
    100: [
        UltraEdit | {"sites": LATE, "step_size": 4e-3},
        UltraEdit | {"passes": 6, "step_size": 2e-4},
        UltraEdit | {"passes": 6, "step_size": 1e-3, "sites": LATE},
    ],
}
BY_STEPS = {20: SHORT, 100: LONG}


def refined(editor, config, bonus=0.0):
    first = {"editor": editor, "editor_config": config, "bonus": bonus}
    return {**GROUPS, **first, "iterations": 6, "sites": [FOURTH]}


def spec(**arguments):
    return environment_spec("LifelongLLMEdit-v0", arguments)


def settings(agent, **arguments):
    return agent.resolved(spec(**arguments)).as_dict()


@pytest.mark.parametrize("steps", BY_STEPS)
@pytest.mark.parametrize("name", DEFAULTS)
def test_an_editor_has_the_tuned_settings_of_its_stream_and_defaults_elsewhere(name, steps):
    agent = make_agent(name)
    assert agent.settings.as_dict() == DEFAULTS[name]
    assert settings(agent, horizon=steps) == BY_STEPS[steps][name]
    for elsewhere in (
        {"model": "factlm-gpt2"},
        {"task": "knowledge/zsre", "model": "factlm"},
        {"model": "lm/babyllama", "task": "knowledge/factworld"},
    ):
        assert settings(agent, horizon=steps, **elsewhere) == DEFAULTS[name]


@pytest.mark.parametrize("steps", BY_STEPS)
def test_the_suites_run_every_editor_with_these_settings(steps):
    every = SUITES["lifelong"].entries
    entry = next(one for one in every if one.env_kwargs.get("horizon") == steps)
    table, found = BY_STEPS[steps], {}
    for name, config, _ in entry.chosen(None):
        if name in (*DEFAULTS, "edit_grpo"):
            found.setdefault(name, []).append(
                settings(make_agent(name, **config), task=entry.task, **entry.env_kwargs)
            )
    bonuses = (0.0, 0.5) if steps == 20 else (0.0,)
    assert found.pop("edit_grpo") == [
        refined(name, config, bonus)
        for name, config in (
            ("ft_l", table["ft_l"]),
            ("memit_seq", table["memit_seq"]),
            ("ultraedit", VARIANTS[steps][0]),
        )
        for bonus in bonuses
    ]
    assert found.pop("ultraedit") == [table["ultraedit"], *VARIANTS[steps]]
    assert found == {name: [table[name]] for name in DEFAULTS if name != "ultraedit"}


@pytest.mark.parametrize(
    ("arguments", "epsilon"),
    [
        ({}, 0.8),  # 20 steps, unless it is told otherwise
        ({"horizon": 1}, 0.8),
        ({"horizon": 49}, 0.8),
        ({"horizon": 50}, 1.2),
        ({"horizon": 100, "edits_per_step": 1}, 0.8),
        ({"horizon": 499, "edits_per_step": 1}, 0.8),
        ({"horizon": 5, "edits_per_step": 100}, 1.2),
        ({"horizon": 1000, "edits_per_step": 1, "split": "test"}, 1.2),
        ({"horizon": 100, "model": "factlm", "task": "knowledge/factworld"}, 1.2),
    ],
)
def test_which_values_hold_follows_from_the_environments_arguments(arguments, epsilon):
    assert settings(make_agent("ft_l"), **arguments) == LONG["ft_l"] | {"epsilon": epsilon}


def test_what_is_given_goes_before_what_was_tuned():
    agent = make_agent("ft_l", epsilon=0.3, site=None)
    assert agent.config == {"epsilon": 0.3, "site": None}
    assert settings(agent) == SHORT["ft_l"] | {"epsilon": 0.3, "site": None}
    assert settings(make_agent("ultraedit", step_size=None))["step_size"] is None


@pytest.mark.parametrize(
    ("opened", "site"),
    [
        (None, FOURTH),
        (SITES, FOURTH),
        ([FOURTH], FOURTH),
        (["model.layers.3.mlp.*", "model.layers.?.mlp.down_proj"], FOURTH),
        (["model.layers.[35].mlp.*"], None),
        (["model.layers.4.mlp.up_proj"], None),
    ],
)
def test_a_tuned_site_holds_where_it_is_open(opened, site):
    assert settings(make_agent("ft_l"), sites=opened) == SHORT["ft_l"] | {"site": site}
    sites = settings(make_agent("edit_grpo"), sites=opened)
    assert sites["sites"] == (None if site is None else [site])
    assert sites["editor_config"]["site"] == site


def test_an_editor_works_where_the_site_that_was_tuned_for_is_closed():
    env = gym.make(spec(sites=["model.layers.5.mlp.down_proj"], horizon=1, edits_per_step=2))
    agent = make_agent("ft_l", steps=2)
    assert {entry.site for entry in agent.edit(env)} == {"model.layers.5.mlp.down_proj"}
    assert agent.settings.as_dict() == SHORT["ft_l"] | {"site": None, "steps": 2}


def test_ultraedits_step_is_the_environments_where_that_is_given_one():
    agent = make_agent("ultraedit")
    assert settings(agent, step_size=0.5, horizon=100)["step_size"] == 0.5
    assert settings(agent, step_size=0.5, model="factlm-gpt2")["step_size"] == 0.5
    assert settings(make_agent("ultraedit", step_size=0.1), step_size=0.5)["step_size"] == 0.1
    env = gym.make(spec(horizon=1))
    tuned = settings(agent)["step_size"]
    assert tuned == env.unwrapped.process.step_size, "the task's own is the one tuned for 20 steps"


@pytest.mark.parametrize("name", ["ft_l", "ultraedit", "edit_grpo"])
def test_learning_and_editing_resolve_the_settings(name, monkeypatch):
    agent, seen = make_agent(name), []
    monkeypatch.setattr(
        agent_class(name), "entries", lambda self, process: seen.append(self.settings) or []
    )
    agent.learn(spec(horizon=70), Budget(), 3)
    assert agent.settings == agent.resolved(spec(horizon=70))
    env = gym.make(spec(horizon=1, edits_per_step=2))
    agent.edit(env)
    assert seen == [agent.resolved(env.spec)]
    assert seen != [agent.resolved(spec(horizon=70))]
    if name == "edit_grpo":
        assert agent.first.settings.as_dict() == SHORT["ft_l"]


def test_an_environment_that_gymnasium_did_not_make_has_no_tuned_settings():
    env = LifelongLLMEditEnv(horizon=1, edits_per_step=2)
    assert env.spec is None
    agent = make_agent("ultraedit")
    agent.edit(env)
    assert agent.settings.as_dict() == DEFAULTS["ultraedit"]


@pytest.mark.parametrize("row", TUNED, ids=lambda row: f"{row.model} from {row.edits} edits on")
def test_every_tuned_value_is_one_that_its_editor_takes(row):
    for name, values in row.settings.items():
        assert make_agent(name, **values).config == values


def test_a_saved_editor_holds_what_it_was_given_alone(tmp_path):
    agent = make_agent("ft_l", steps=2)
    agent.learn(spec(horizon=70), Budget(), 3)
    agent.save(tmp_path)
    assert agent_class("ft_l").load(tmp_path).config == {"steps": 2}


@pytest.mark.parametrize(
    "name", ["memit", "memit_seq", "alphaedit", "ultraedit", "lora_merge", "edit_grpo"]
)
def test_a_site_that_is_named_twice_is_refused(name):
    with pytest.raises(ValueError, match="sites must be a list of names of sites, each once"):
        make_agent(name, sites=["one", "two", "one"])
