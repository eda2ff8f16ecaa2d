"""Settings: their ranges, what they resolve to in an environment, and how they are told."""

import inspect
import json
import re

import pytest
import torch

from agents.catalogue import agent_class, make_agent
from agents.hypernetworks.mend_malmen import Malmen
from agents.hypernetworks.rledit import RLEdit
from agents.hypernetworks.settings import Learning
from agents.protocol import Budget
from editgym.tasks.knowledge.factworld import FACTLM_SITES
from envs_registry import environment_spec

NAMES = ["rledit", "malmen", "mend"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sequences", -1),
        ("sequences", 1.5),
        ("sequences", True),
        ("learning_rate", -1e-3),
        ("learning_rate", float("nan")),
        ("step_learning_rate", "fast"),
        ("update_every", 0),
        ("update_every", 0.5),
        ("max_grad_norm", 0),
        ("max_grad_norm", float("inf")),
        ("validate_every", -1),
        ("validate_every", None),
        ("patience", 0),
        ("patience", 2.0),
    ],
)
def test_bad_settings_are_named_with_their_value(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {value!r}$"):
        Learning(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        RLEdit(**{name: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("mode", "public"),
        ("rule", "rome"),
        ("passes", 0),
        ("passes", 1.0),
        ("step_size", 0.0),
        ("step_size", -1),
        ("step_size", float("nan")),
        ("ridge", 0),
        ("ridge", None),
        ("blocks", 0),
        ("rank", 0),
        ("rank", True),
        ("sequences", -1),
        ("patience", 0),
        ("learning_rate", float("inf")),
    ],
)
def test_an_argument_out_of_range_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {value!r}$"):
        RLEdit(**{argument: value})


@pytest.mark.parametrize("name", NAMES)
def test_unknown_settings_are_named(name):
    with pytest.raises(ValueError, match=r"\['sequence'\].*|sequence.*sequences"):
        make_agent(name, sequence=3)


def test_in_shiftworld_it_learns_as_many_episodes_as_asked_or_released():
    assert (
        RLEdit().learning_in_worlds().sequences == Malmen().learning_in_worlds().sequences == 1_000
    )
    assert RLEdit(sequences=7).learning_in_worlds().sequences == 7
    assert RLEdit(mode="released").learning_in_worlds().sequences == 1
    assert RLEdit(mode="released").learning_in_worlds().train_env == {}
    for setting in ({"validate_every": 3}, {"train_env": {"decay": 0.5}}):
        with pytest.raises(
            ValueError, match=rf"^{next(iter(setting))} must be left out in ShiftWorld"
        ):
            RLEdit(**setting).learning_in_worlds()


# --- tuned values ---------------------------------------------------------------------------------


def facts(**arguments):
    return environment_spec("LifelongLLMEdit-v0", arguments, evaluation=True)


REWARD = {"back_depth": 5, "locality_weight": 8.0}
LONG = {"back_depth": 5, "locality_weight": 30.0, "horizon": 40}


@pytest.mark.parametrize(
    ("name", "horizon", "expected"),
    [
        ("rledit", 20, {"sequences": 20, "step_learning_rate": 0.02, "train_env": REWARD}),
        ("rledit", 49, {"sequences": 20, "step_learning_rate": 0.02, "train_env": REWARD}),
        ("rledit", 50, {"sequences": 12, "step_learning_rate": 0.05, "train_env": LONG}),
        ("rledit", 100, {"sequences": 12, "step_learning_rate": 0.05, "train_env": LONG}),
        (
            "hiedit",
            20,
            {"sequences": 16, "sites_per_step": 3, "step_size": 3e-3, "gate": "sampled"},
        ),
        ("hiedit", 100, {"sequences": 8, "step_learning_rate": 0.05, "train_env": LONG}),
        ("mend", 20, {"sequences": 300, "validate_every": 50}),
        ("malmen", 100, {"sequences": 300, "train_env": {**REWARD, "horizon": 1, "back_depth": 0}}),
    ],
)
def test_tuned_values_hold_for_the_task_they_were_tuned_on(name, horizon, expected):
    agent = make_agent(name)
    resolved = agent.resolved(facts(horizon=horizon)).as_dict()
    assert {key: resolved[key] for key in expected} == expected
    assert json.loads(json.dumps(resolved)) == resolved
    plain = agent.settings.as_dict()
    for other in ({"model": "factlm-gpt2"}, {"task": "knowledge/zsre"}):
        assert agent.resolved(facts(horizon=horizon, **other)).as_dict() == plain
    assert agent.resolved(None).as_dict() == plain
    assert agent.settings.as_dict() == plain, "asking changes nothing"


@pytest.mark.parametrize(
    ("horizon", "size", "sequences"), [(100, 1, 20), (499, 1, 20), (500, 1, 12), (5, 100, 12)]
)
def test_a_streams_length_is_its_number_of_edits(horizon, size, sequences):
    resolved = make_agent("rledit").resolved(facts(horizon=horizon, edits_per_step=size))
    assert resolved.as_dict()["sequences"] == sequences


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"sequences": 3}, {"sequences": 3, "step_learning_rate": 0.05, "train_env": LONG}),
        ({"train_env": {"decay": 0.5}}, {"train_env": {**LONG, "decay": 0.5}}),
        ({"train_env": {"horizon": 7}}, {"train_env": {**LONG, "horizon": 7}}),
        ({"sequences": 0}, {"step_learning_rate": 0.02, "train_env": REWARD}),
        (
            {"mode": "released"},
            {
                "sequences": 1,
                "step_learning_rate": None,
                "train_env": {
                    "back_depth": 9,
                    "locality_weight": 0.6,
                    "norm_weight": 0.0,
                    "reference": "previous",
                },
            },
        ),
    ],
)
def test_what_is_given_stands_before_what_is_tuned(given, expected):
    resolved = RLEdit(**given).resolved(facts(horizon=100)).as_dict()
    assert {key: resolved[key] for key in expected} == expected


def test_how_many_sites_are_edited_is_tuned_for_the_tasks_own_sites_alone():
    for sites, count in ((list(FACTLM_SITES), 3), (["model.layers.[345].mlp.down_proj"], None)):
        resolved = make_agent("hiedit").resolved(facts(horizon=20, sites=sites)).as_dict()
        assert (resolved["sites_per_step"], resolved["sequences"]) == (count, 16)


@pytest.mark.parametrize("name", [*NAMES, "hiedit"])
def test_nothing_is_tuned_for_shift_world_where_an_episode_is_a_sequence(name):
    spec = environment_spec("ShiftWorld-v0", {"task": "unlearning/mnist"})
    agent = make_agent(name)
    changed = {"sequences": 1_000, "validate_every": 0, "train_env": {}}
    assert agent.resolved(spec).as_dict() == {**agent.settings.as_dict(), **changed}


def test_an_agent_learns_with_what_is_resolved_and_keeps_it_wherever_it_edits(
    stream_spec, stream_env, tmp_path, monkeypatch
):
    tuned = {"learning_rate": 0.25, "passes": 2, "train_env": {"decay": 0.5}}
    monkeypatch.setattr(RLEdit, "tuned", lambda self, spec: tuned)
    agent = RLEdit(sequences=1, validate_every=0)
    agent.learn(stream_spec(), Budget(), seed=0)
    assert agent.config == {"mode": "paper", "sequences": 1, "validate_every": 0}
    assert (agent.settings.learning_rate, agent.policy.passes) == (0.25, 2)
    assert agent.settings.train_env == {**REWARD, "decay": 0.5}
    first = agent.edit(stream_env(split="test"))
    agent.save(tmp_path)
    monkeypatch.setattr(RLEdit, "tuned", lambda self, spec: {"passes": 5, "rank": 3})
    again = RLEdit.load(tmp_path)
    assert again.resolved(stream_spec()) == again.settings == agent.settings
    assert again.config == agent.config
    journal = again.edit(stream_env(split="test"))
    assert all(
        torch.equal(a.update.matrix(), b.update.matrix())
        for a, b in zip(first, journal, strict=True)
    )
    again.learn(stream_spec(), Budget(), seed=0)
    assert again.policy.passes == 5, "whoever learns anew asks the environment anew"


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "hiedit"])
def test_help_says_what_every_setting_is_and_its_default(name):
    cls = agent_class(name)
    about, told = inspect.getdoc(cls).split("Raises:")[0].split("Args:\n")
    told = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", told, re.M | re.S))
    settings = cls.settings_type().as_dict()
    assert told.keys() == settings.keys() == inspect.signature(cls).parameters.keys()
    assert "As `" not in about
    for setting, value in settings.items():
        text = " ".join(told[setting].split()).replace("1e-4", "0.0001")
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for key, one in parts:
            default = f"{one:g}" if type(one) in (int, float) else str(one)
            assert (f'"{key}": {default}' if key else default) in text, (setting, text)
        assert "As `" not in text
