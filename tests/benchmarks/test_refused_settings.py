"""Settings and arguments that nobody takes are refused before any cell runs."""

import json
import sys

import pytest

from agents.catalogue import SettingsError, make_agent
from benchmarks import leaderboard
from benchmarks.results.resolved import resolved_settings
from benchmarks.suites.cells import SUITES, cells
from benchmarks.suites.given import read_given

AGENT = '''
from agents.black_box import NoEdit


class Picky(NoEdit):
    """An agent without settings that are known."""

    def __init__(self, size=1):
        if size < 1:
            raise ValueError(f"size must be 1 or more, got {size}")
        super().__init__()

    def resolved(self, spec):
        return {"size": self.size}


class Unspeakable(NoEdit):
    def resolved(self, spec):
        return {"where": {1, 2}}
'''


@pytest.fixture(autouse=True)
def no_work(tmp_path, monkeypatch):
    """A folder with an agent, and no cell that runs."""
    (tmp_path / "picky_agents.py").write_text(AGENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        "benchmarks.harness.runner.run_cell", lambda *_: pytest.fail("worked before it checked")
    )
    yield
    sys.modules.pop("picky_agents", None)


REFUSED = [
    (
        "ppo.typo=1",
        ["agent ppo", "no hyperparameter typo=1", "it takes", "n_steps", "rollout"],
    ),
    ("ppo.num_env=4", ["agent ppo", "num_env=4 (did you mean num_envs?)"]),
    ("ppo.seed=4", ["ppo takes no hyperparameter seed=4"]),
    ("ppo.learning_rate=NaN", ["--set ppo.learning_rate must be finite, got nan"]),
    ('ppo.policy_kwargs={"net_arch": [-Infinity]}', ["--set ppo.policy_kwargs.net_arch[0]"]),
    ("ppo.learning_rate=1e999", ["--set ppo.learning_rate must be finite, got inf"]),
    ("ppo.learning_rate=fast", ["agent ppo", "learning_rate must be 0 or more", "got 'fast'"]),
    ("ppo.gamma=7", ["agent ppo", "gamma must be from 0 to 1, got 7"]),
    ("ppo.n_epochs=0", ["agent ppo", "n_epochs must be 1 or more, a whole number, got 0"]),
    ('ppo.policy_kwargs={"activation_fn": "gelu"}', ["agent ppo", "relu, tanh, elu"]),
    (
        'ppo.policy_kwargs={"net_arhc": [8]}',
        ["agent ppo", "net_arhc=[8] (did you mean net_arch?)"],
    ),
    ("cmaes.sigmas=1", ["agent cmaes", "sigmas=1", "its arguments: ", "sigma"]),
    ("cmaes.sigma=-1", ["agent cmaes", "sigma must be greater than 0 and finite, got -1"]),
    ("fine_tune.beta=1", ["agent fine_tune", "unknown setting 'beta'", "given as 1", "momentum"]),
    ("no_edit.size=1", ["agent no_edit", "unknown setting 'size', given as 1", "none"]),
    ("ultraedit.step_size=0", ["agent ultraedit", "step_size must be", "got 0"]),
    (
        'rledit.train_env={"horizn": 3}',
        ["agent rledit in LifelongLLMEdit-v0", "horizn=3 (did you mean horizon?)"],
    ),
    (
        'rledit.train_env={"horizon": 0}',
        ["agent rledit in LifelongLLMEdit-v0", "train_env: horizon must be 1 or more"],
    ),
    (
        "unlearning/digits.batch_siz=3",
        ["unlearning/digits: MaskWorld-v0 takes no argument batch_siz=3", "mean batch_size?"],
    ),
    (
        "unlearning/digits.batch_size=-3",
        ["unlearning/digits: batch_size must be 1 or more, a whole number, or None, got -3"],
    ),
    ("knowledge/factworld.horizon=0", ["knowledge/factworld: horizon must be 1 or more"]),
    ("knowledge/factworld.modle=x", ["modle='x' (did you mean model?)"]),
]


@pytest.mark.parametrize(("pair", "messages"), REFUSED)
@pytest.mark.parametrize("way", ["--set", "--settings"])
def test_a_setting_that_is_wrong_stops_the_run_before_it_begins(
    pair, messages, way, tmp_path, capsys
):
    described, _, value = pair.partition("=")
    name, _, key = described.rpartition(".")
    given = ["--set", pair]
    if way == "--settings":
        text = value if value != "fast" and value != "x" else json.dumps(value)
        (tmp_path / "settings.json").write_text(f'{{"{name}": {{"{key}": {text}}}}}')
        given = ["--settings", "settings.json"]
        messages = [one.replace("--set ", "--settings settings.json.") for one in messages]
    assert leaderboard.main(["run", "--suite", "quick", *given, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    for message in messages:
        assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("size=0", "agent picky_agents:Picky: size must be 1 or more, got 0"),
        ("sizes=2", "got an unexpected keyword argument 'sizes' (given sizes=2); its arguments"),
        ("size=[]", "agent picky_agents:Picky: '<' not supported"),
    ],
)
def test_a_strangers_settings_are_refused_too(setting, message, capsys):
    given = ["--agents", "picky_agents:Picky", "--set", f"picky_agents:Picky.{setting}"]
    assert leaderboard.main(["run", "--suite", "quick", *given, "--out", "out"]) == 2
    assert message in capsys.readouterr().err


def test_settings_that_json_does_not_have_are_an_error_that_names_them():
    with pytest.raises(
        SettingsError, match=r"agent picky_agents:Unspeakable in MaskWorld-v0: sett"
    ):
        resolved_settings("picky_agents:Unspeakable", {}, "MaskWorld-v0", {})


@pytest.mark.parametrize(
    ("agent", "env_id"),
    [
        ("no.such.module:Agent", "MaskWorld-v0"),
        ("no_edit", "NoSuchWorld-v0"),
        ("picky_agents:Picky", "MaskWorld-v0"),  # its `resolved` is broken
    ],
)
def test_what_was_typed_is_known_where_an_agent_or_an_environment_is_not_there(agent, env_id):
    assert resolved_settings(agent, {}, env_id, {}) == {}


def test_every_preset_and_every_suite_is_taken():
    for name in ("ppo", "a2c", "sac", "td3", "ddpg", "tqc", "trpo", "ars", "crossq"):
        for task in ("unlearning/digits", "unlearning/cifar10"):
            assert "num_envs" in resolved_settings(name, {}, "MaskWorld-v0", {"task": task})
    for suite in SUITES.values():
        assert cells(suite, seeds=1)


def test_hyperparameters_that_algorithms_do_take_are_taken():
    taken = {
        "sac": {"train_freq": [2, "episode"], "gradient_steps": -1, "ent_coef": "auto_0.1"},
        "ppo": {
            "target_kl": None,
            "clip_range_vf": None,
            "policy_kwargs": {"ortho_init": False},
        },
        "ars": {"n_top": None, "policy_kwargs": {"with_bias": False}},
        "recurrent_ppo": {"policy_kwargs": {"lstm_hidden_size": 8}},
    }
    for name, given in taken.items():
        assert given.items() <= make_agent(name, **given).config.items()


def test_a_text_in_quotes_is_a_text():
    assert read_given([], ['a.b="NaN"', "a.c=nan"]) == {"a": {"b": "NaN", "c": "nan"}}
