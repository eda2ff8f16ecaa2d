"""What `agents.train` and `agents.edit` refuse leaves nothing half-done behind."""

import json

import pytest

from agents import edit, train
from agents.black_box import NoEdit
from agents.protocol import Budget

ON_WORLD = ["--env", "ShiftWorld-v0"]
ON_STREAM = ["--env", "LifelongLLMEdit-v0", "--set", "horizon=3", "--set", "edits_per_step=2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ppo", "--set", "agent.typo=1"], "agent ppo: ppo takes no hyperparameter typo=1"),
        (["ppo", "--set", "agent.n_step=8"], "n_step=8 (did you mean n_steps?)"),
        (
            ["ppo", "--set", "agent.learning_rate=NaN"],
            "agent.learning_rate must be finite, got nan",
        ),
        (["ppo", "--set", "agent.gamma=7"], "agent ppo: gamma must be from 0 to 1, got 7"),
        (["ppo", "--set", "alpha=Infinity"], "--set alpha must be finite, got inf"),
        (["ppo", "--settings", "typo.json"], "agent ppo: ppo takes no hyperparameter typo=1"),
        (["ppo", "--settings", "nan.json"], "nan.json.gamma must be finite, got nan"),
        (["ppo", "--seconds", "nan"], "seconds must be 0 or more and finite, or None, got nan"),
        (["ppo", "--reward-calls", "7"], "do not pay for one rollout"),
        (["fine_tune", "--set", "agent.beta=1"], "agent fine_tune: "),
        (
            ["rledit", "--set", "agent.validate_every=3"],
            "agent rledit in ShiftWorld-v0: validate_e",
        ),
        (["last_layer_fine_tune"], "a debiasing task"),
    ],
)
@pytest.mark.parametrize("inside", [".", "new/folders"])
def test_a_refused_training_writes_nothing(
    arguments, message, inside, tmp_path, monkeypatch, capsys
):
    (tmp_path / "typo.json").write_text('{"typo": 1}')
    (tmp_path / "nan.json").write_text('{"gamma": NaN}')
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert train.main([*ON_WORLD, "--agent", *arguments, "--out", inside]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, RuntimeError])
def test_a_training_that_comes_to_nothing_leaves_nothing(error, tmp_path, monkeypatch):
    def stopped(self, env_spec, budget, seed, out):
        (out / "log").mkdir(parents=True)
        raise error

    monkeypatch.setattr(NoEdit, "learn", stopped)
    arguments = [*ON_WORLD, "--agent", "no_edit", "--out", str(tmp_path / "a" / "b")]
    if error is RuntimeError:
        with pytest.raises(RuntimeError):
            train.main(arguments)
    else:
        assert train.main(arguments) in (2, 130)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_somebody_else_stays(tmp_path, monkeypatch):
    def stopped(self, env_spec, budget, seed, out):
        (out.parent / "notes.txt").write_text("mine")
        raise ValueError("no")

    monkeypatch.setattr(NoEdit, "learn", stopped)
    assert train.main([*ON_WORLD, "--agent", "no_edit", "--out", str(tmp_path / "a")]) == 2
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
def test_a_budget_is_a_number(value):
    with pytest.raises(ValueError, match="seconds must be 0 or more and finite, or None"):
        Budget(seconds=value)


# --- edit -----------------------------------------------------------------------------------------


def put(folder, agent="no_edit", *more):
    return edit.main([str(folder), *ON_WORLD, "--agent", agent, "--no-checks", *more])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "it holds no agent"),
        ("[1", "it holds no JSON"),
        ("[1]", "it holds [1] and no object"),
        ('{"agent": "no_edit", "env_id": 3}', "it holds env_id=3"),
    ],
)
def test_a_damaged_configuration_is_named(text, message, tmp_path, capsys):
    assert put(tmp_path) == 0
    (tmp_path / "config.json").write_text(text)
    for refused in (lambda: edit.main([str(tmp_path)]), lambda: put(tmp_path)):
        assert refused() == 2
        told = capsys.readouterr().err
        assert f"{tmp_path / 'config.json'} is damaged, {message}" in told
        assert "python -m agents.train" in told


@pytest.mark.parametrize("file", ["agent.json", "settings.json", "actions.safetensors"])
def test_a_damaged_agent_is_named(file, tmp_path, capsys):
    assert put(tmp_path) == 0
    (tmp_path / "agent" / file).write_bytes(b"[1")
    assert edit.main([str(tmp_path)]) == 2
    assert f"{tmp_path / 'agent' / file} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("agent", "given", "message"),
    [
        (
            "random_actions",
            "agent.refine=0.3",
            "--set agent.refine: random_actions has learned with",
        ),
        ("fine_tune", "agent.epochs=0.5", "agent fine_tune: fine_tune: epochs must be"),
        ("fine_tune", "agent.epoch=1", "did you mean 'epochs'?"),
    ],
)
def test_settings_of_the_agent_that_an_edit_cannot_take_are_refused(
    agent, given, message, tmp_path, capsys
):
    assert train.main([*ON_WORLD, "--agent", agent, "--out", str(tmp_path)]) == 0
    assert edit.main([str(tmp_path), "--no-checks", "--set", given]) == 2
    assert message in capsys.readouterr().err


def test_an_agent_that_learns_nothing_is_edited_with_other_settings(tmp_path, monkeypatch):
    from agents.unlearning.agent import Unlearner

    seen = []
    monkeypatch.setattr(
        Unlearner, "forget", lambda self, *_: seen.append((self.settings.epochs, self.seed))
    )
    arguments = ["--agent", "fine_tune", "--set", "agent.learning_rate=0.1", "--seed", "3"]
    assert train.main([*ON_WORLD, *arguments, "--out", str(tmp_path)]) == 0
    assert edit.main([str(tmp_path), "--no-checks", "--set", "agent.epochs=2"]) == 0
    assert seen == [(2, 3)]


@pytest.mark.parametrize("agent", ["no_edit", "random_actions", "own_nothing:OwnNothing"])
def test_an_agent_that_learns_nothing_is_put(agent, tmp_path, monkeypatch):
    (tmp_path / "own_nothing.py").write_text(
        "class OwnNothing:\n"
        "    name, access, learns_nothing = 'own_nothing', 'reward', True\n"
        "    def learn(self, env_spec, budget, seed, out=None): pass\n"
        "    def edit(self, env):\n"
        "        env.reset()\n"
        "        return env.unwrapped.journal\n"
        "    def save(self, folder):\n"
        "        folder.mkdir(parents=True, exist_ok=True)\n"
        "        (folder / 'own.txt').write_text('')\n"
        "    @classmethod\n"
        "    def load(cls, folder): return cls()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert put(tmp_path / "run", agent) == 0


def test_an_agent_that_may_have_to_learn_is_not_put(tmp_path, capsys):
    assert put(tmp_path / "run", "cmaes") == 2
    told = capsys.readouterr().err
    assert "cmaes has to learn first" in told
    assert "learns_nothing = True" in told
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "one"])
def test_a_seed_that_no_generator_takes_is_refused(seed, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        put(tmp_path / "run", "no_edit", "--seed", seed)
    assert f"must be from 0 to 4294967295, a whole number, got '{seed}'" in capsys.readouterr().err
    assert put(tmp_path / "run", "no_edit", "--seed", "4294967295") == 0


@pytest.fixture
def stream(tiny_lm, tmp_path):
    """A folder with an editor of streams."""
    sites = 'sites=["model.layers.[23].mlp.down_proj"]'
    chosen = ["--set", f"model={tiny_lm}", "--set", sites, "--agent", "ultraedit"]
    assert train.main([*ON_STREAM, *chosen, "--out", str(tmp_path)]) == 0
    return tmp_path


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("horizn=3", "horizn"),
        ("decay=NaN", "--set decay must be finite, got nan"),
        ("decay=-1", "decay must be 0 or more"),
        ('sites=["nowhere"]', "nowhere"),
    ],
)
def test_a_refused_edit_writes_nothing(given, message, stream, capsys):
    before = sorted(stream.rglob("*"))
    assert edit.main([str(stream), "--set", given]) == 2
    assert message in capsys.readouterr().err
    assert sorted(stream.rglob("*")) == before


def test_an_edit_that_ends_before_its_first_checkpoint_leaves_no_steps(stream, monkeypatch):
    from agents.editors.ultraedit import UltraEditAgent

    def refused(self, process):
        raise ValueError("no")

    monkeypatch.setattr(UltraEditAgent, "entries", refused)
    before = sorted(stream.rglob("*"))
    assert edit.main([str(stream)]) == 2
    assert sorted(stream.rglob("*")) == before


def test_what_a_strangers_environment_does_not_take_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "narrow_world.py").write_text(
        "import gymnasium as gym\n"
        "from editgym.envs.shift_world import ShiftWorldEnv\n"
        "class Narrow(ShiftWorldEnv):\n"
        "    def __init__(self, limit=0.1):\n"
        "        super().__init__(shift_limit=limit)\n"
        "gym.register('NarrowWorld-v0', entry_point=Narrow)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "run"
    command = ["--env", "narrow_world:NarrowWorld-v0", "--agent", "no_edit", "--out", str(folder)]
    assert train.main(command) == 0
    assert edit.main([str(folder), "--set", "limits=3"]) == 2
    assert (
        "narrow_world:NarrowWorld-v0 cannot be made with {'limits': 3}" in capsys.readouterr().err
    )
    assert json.loads((folder / "config.json").read_text())["env_kwargs"] == {}
