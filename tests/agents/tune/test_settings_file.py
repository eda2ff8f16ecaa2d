"""What a study found, taken by `agents.train`, `agents.edit` and the leaderboard, or refused."""

import json

import gymnasium as gym
import pytest

from agents import edit, train
from agents.tune.settings_file import TunedSettings
from benchmarks import leaderboard
from benchmarks.harness.tuned import check_tuned
from benchmarks.suites.cells import cells
from benchmarks.suites.entry import Entry, Suite
from benchmarks.suites.given import read_given, read_tuned
from editgym.envs.protocol import edit_env

SITE = "model.layers.2.mlp.down_proj"
STREAM = {"horizon": 2, "edits_per_step": 2}


@pytest.fixture(scope="module")
def fingerprint(tiny_lm):
    env = gym.make("LifelongLLMEdit-v0", model=tiny_lm)
    return edit_env(env).journal.base_hash


@pytest.fixture
def tuned(tmp_path, fingerprint):
    """`tuned(**fields)`: the path of a study's file, of `ft_m` on the tiny model."""

    def write(name="settings.json", **fields):
        found = TunedSettings(
            **{
                "agent": "ft_m",
                "env_id": "LifelongLLMEdit-v1",
                "task": "knowledge/custom",
                "model": fingerprint,
                "settings": {"site": SITE, "learning_rate": 1e-3},
                "env_kwargs": {"sites": [SITE]},
                "study": {"score": 0.5},
            }
            | fields
        )
        found.write(tmp_path / name)
        assert TunedSettings.of(json.loads((tmp_path / name).read_text())) == found
        return tmp_path / name

    return write


@pytest.fixture
def run_train(tmp_path, tiny_lm):
    """`run_train(settings, *more, **arguments)`: what `agents.train` returns for an editor."""

    def run(settings, *more, agent="ft_m", env="LifelongLLMEdit-v0", **arguments):
        given = {"model": tiny_lm, **STREAM, **arguments} if "Lifelong" in env else arguments
        sets = [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in given.items()
        ]
        return train.main(
            [
                *("--env", env, "--agent", agent, "--out", str(tmp_path / "run")),
                *(part for one in [*sets, *more] for part in ("--set", one)),
                *(["--settings", str(settings)] if settings else []),
            ]
        )

    return run


def config(folder):
    return json.loads((folder / "config.json").read_text())


def test_train_takes_settings_and_sites_and_what_is_typed_goes_over_them(
    tuned, run_train, tmp_path
):
    assert run_train(tuned()) == 0
    saved = config(tmp_path / "run")
    assert saved["agent_config"] == {"site": SITE, "learning_rate": 1e-3}
    assert saved["env_kwargs"]["sites"] == [SITE]
    assert run_train(tuned(), "agent.learning_rate=0.5", sites=["model.layers.[12].mlp.*"]) == 0
    saved = config(tmp_path / "run")
    assert saved["agent_config"] == {"site": SITE, "learning_rate": 0.5}
    assert saved["env_kwargs"]["sites"] == ["model.layers.[12].mlp.*"]


def test_train_still_takes_a_plain_object(run_train, tmp_path):
    plain = tmp_path / "plain.json"
    plain.write_text('{"learning_rate": 0.25}')
    assert run_train(plain, "agent.steps=3") == 0
    assert config(tmp_path / "run")["agent_config"] == {"learning_rate": 0.25, "steps": 3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"agent": "ft_l"}, "were tuned for the agent ft_l, not for ft_m: tune that with"),
        (
            {"model": "0" * 64},
            "were tuned for another language model: its fingerprint is 000000000000…, here it is",
        ),
        ({"model": None}, "were tuned for LifelongLLMEdit-v1 with knowledge/custom, not for"),
    ],
)
def test_train_refuses_another_agents_and_another_models_settings(
    fields, message, tuned, run_train, tmp_path, capsys
):
    assert run_train(tuned(**fields)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_settings_of_a_world_are_for_its_task(tuned, run_train, tmp_path, capsys):
    fields = {
        "agent": "fine_tune",
        "env_id": "MaskWorld-v0",
        "task": "unlearning/digits",
        "model": None,
        "settings": {"epochs": 2},
        "env_kwargs": {},
    }
    world = {"agent": "fine_tune", "env": "MaskWorld-v0"}
    assert run_train(tuned(**fields), **world, model_seed=1) == 0
    assert config(tmp_path / "run")["agent_config"] == {"epochs": 2}
    assert run_train(tuned(**fields | {"task": "unlearning/mnist"}), **world) == 2
    assert "tuned for MaskWorld-v0 with unlearning/mnist, not for" in capsys.readouterr().err
    assert run_train(tuned(**fields | {"model": "0" * 64}), **world) == 2
    assert "here it is none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "write a JSON object"), ("{", "cannot read"), (None, "cannot read")],
)
def test_a_file_that_is_none_is_named(text, message, run_train, tmp_path, capsys):
    file = tmp_path / "none.json"
    if text is not None:
        file.write_text(text)
    assert run_train(file) == 2
    assert message in capsys.readouterr().err


def test_edit_takes_settings_in_place_of_those_of_the_training(tuned, run_train, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_train(None, "agent.steps=2") == 0
    assert edit.main([str(out)]) == 0
    before = (out / "journal.safetensors").read_bytes()
    assert edit.main([str(out), "--settings", str(tuned())]) == 0
    after = (out / "journal.safetensors").read_bytes()
    assert SITE.encode() in after
    assert SITE.encode() not in before
    # The same as if it had been trained with all of them.
    assert run_train(tuned(), "agent.steps=2") == 0
    assert edit.main([str(out)]) == 0
    assert (out / "journal.safetensors").read_bytes() == after
    for fields in ({"agent": "ft_l"}, {"model": "0" * 64}):
        assert edit.main([str(out), "--settings", str(tuned(**fields))]) == 2
        assert "--settings: these settings were tuned for" in capsys.readouterr().err


def test_edit_refuses_settings_for_an_agent_that_has_learned(tuned, tmp_path, capsys):
    out = str(tmp_path / "run")
    arguments = ["--env", "MaskWorld-v0", "--agent", "random", "--reward-calls", "8", "--out", out]
    assert train.main(arguments) == 0
    file = tuned(agent="random", env_id="MaskWorld-v0", task="unlearning/digits", model=None)
    assert edit.main([out, "--settings", str(file)]) == 2
    assert "random has learned with the settings that it has" in capsys.readouterr().err


# --- the leaderboard ------------------------------------------------------------------------------


def suite(tiny_lm, **env_kwargs):
    return Suite(
        "own",
        2,
        (
            Entry(
                "LifelongLLMEdit-v0",
                "knowledge/factworld",
                ("no_edit", "ft_m", "ultraedit"),
                env_kwargs={"model": tiny_lm, **STREAM, **env_kwargs},
                seed_kwarg=None,
            ),
        ),
    )


def test_cells_have_settings_of_several_files_and_sites_unless_the_suite_has_its_own(
    tuned, tiny_lm
):
    files = [tuned(), tuned("other.json", agent="ultraedit", settings={"passes": 3})]
    given = read_given(files, ["ft_m.learning_rate=0.5"])
    assert given == {"ft_m": {"site": SITE, "learning_rate": 0.5}, "ultraedit": {"passes": 3}}
    opened = {one.agent: one.env_kwargs for one in read_tuned(files)}
    made = cells(suite(tiny_lm), given=given, opened=opened)
    assert {(c.agent, str(c.env_kwargs.get("sites"))) for c in made} == {
        ("no_edit", "None"),
        ("ft_m", f"['{SITE}']"),
        ("ultraedit", f"['{SITE}']"),
    }
    assert {c.agent_config.get("learning_rate") for c in made if c.agent == "ft_m"} == {0.5}
    own = cells(suite(tiny_lm, sites=["model.layers.*"]), given=given, opened=opened)
    assert all(cell.env_kwargs["sites"] == ["model.layers.*"] for cell in own)
    typed = cells(
        suite(tiny_lm), given=given | {"knowledge/factworld": {"sites": ["x"]}}, opened=opened
    )
    assert all(cell.env_kwargs["sites"] == ["x"] for cell in typed)


def test_two_files_of_one_agent_are_refused(tuned):
    with pytest.raises(ValueError, match="more than one file has settings of ft_m"):
        read_tuned([tuned(), tuned("again.json")])


def test_cells_of_another_model_are_refused_and_other_agents_are_not_looked_at(tuned, tiny_lm):
    made = cells(suite(tiny_lm))
    check_tuned(read_tuned([tuned()]), made)
    other = read_tuned([tuned(model="0" * 64)])
    with pytest.raises(ValueError, match="tuned for another language model"):
        check_tuned(other, made)
    check_tuned(other, [cell for cell in made if cell.agent != "ft_m"])


def test_the_leaderboard_refuses_before_it_runs(tuned, tmp_path, capsys):
    file = tuned(
        agent="ppo",
        env_id="MaskWorld-v0",
        task="unlearning/mnist",
        model=None,
        settings={"gamma": 0.5},
        env_kwargs={},
    )
    arguments = ["run", "--suite", "quick", "--envs", "MaskWorld-v0", "--agents", "ppo"]
    out = tmp_path / "out"
    assert leaderboard.main([*arguments, "--settings", str(file), "--out", str(out)]) == 2
    assert "--settings: these settings were tuned for" in capsys.readouterr().err
    assert not out.exists()
    missing = str(tmp_path / "missing.json")
    assert leaderboard.main([*arguments, "--settings", missing, "--out", str(out)]) == 2
    assert "missing.json" in capsys.readouterr().err
