"""Agents, tasks and networks of one's own, named by import path on the command line."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from agents import edit, train
from editgym.weights import EditJournal

AGENT = '''
"""An agent with settings, in a folder of its own."""

from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from agents.black_box import OpenLoopAgent
from agents.configured import Settings, setting
from editgym.checks import within
from editgym.envs.protocol import edit_env


@dataclass(frozen=True, kw_only=True)
class ConstantSettings(Settings):
    level: float = setting(0.1, within(-1, 1))
    sign: int = setting(1)


class Constant(OpenLoopAgent):
    """The same number in every place of the action."""

    name, access, settings_type = "constant", "reward", ConstantSettings

    def learn(self, env_spec, budget, seed, out=None):
        size = edit_env(gym.make(env_spec)).action_space.shape
        self.actions = np.full((1, *size), self.settings.sign * self.settings.level, np.float32)


NOT_A_CLASS = Constant()


class HalfAnAgent:
    name, access = "half", "reward"
'''


@pytest.fixture
def elsewhere(tmp_path):
    """A folder outside the package with `strange_agents.py`."""
    (tmp_path / "strange_agents.py").write_text(AGENT)
    return tmp_path


def command(folder, module, *arguments):
    """A command line in a process of its own whose current folder is `folder`."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "TQDM_DISABLE": "1"},
        check=False,
    )


@pytest.mark.slow
def test_an_agent_in_the_current_folder_learns_with_its_settings_and_edits(elsewhere):
    (elsewhere / "settings.json").write_text('{"level": 0.25, "sign": 1}')
    done = command(
        elsewhere,
        "agents.train",
        *("--env", "ShiftWorld-v0", "--agent", "strange_agents:Constant"),
        *("--settings", "settings.json", "--set", "agent.sign=-1", "--out", "run"),
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((elsewhere / "run" / "config.json").read_text())
    assert config["agent"] == "strange_agents:Constant"
    assert config["agent_config"] == {"level": 0.25, "sign": -1}
    done = command(elsewhere, "agents.edit", "run")
    assert done.returncode == 0, done.stderr
    assert "forget_accuracy" in done.stdout
    (entry,) = EditJournal.load(elsewhere / "run" / "journal.safetensors")
    assert (entry.update.a == -0.25).all()


@pytest.mark.parametrize(
    ("agent", "more", "message"),
    [
        ("no_such_module:Agent", [], "cannot import the module 'no_such_module'"),
        ("strange_agents:Constnat", [], "has no 'Constnat'; write package.module:Class"),
        ("strange_agents", [], "Your own class is written package.module:Class"),
        ("strange_agents:", [], "is no import path: write package.module:Class"),
        ("strange_agents:HalfAnAgent", [], "lacks learn, edit, save, load"),
        ("strange_agents:NOT_A_CLASS", [], "write the path of its class"),
        ("strange_agents:Constant", ["--set", "agent.leval=1"], "its arguments: level, sign"),
        ("strange_agents:Constant", ["--set", "agent.level=3"], "level must be from -1 to 1"),
        ("strange_agents:Constant", ["--settings", "none.json"], "--settings: cannot read"),
        ("strange_agents:Constant", ["--settings", "list.json"], "write a JSON object"),
    ],
)
def test_the_part_of_a_path_or_setting_that_is_wrong_is_named(
    agent, more, message, elsewhere, monkeypatch, capsys
):
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.delitem(sys.modules, "strange_agents", raising=False)
    (elsewhere / "list.json").write_text("[1]")
    arguments = ["--env", "ShiftWorld-v0", "--agent", agent, *more, "--out", "run"]
    assert train.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (elsewhere / "run").exists()


# The network knows nothing that it could forget: an agent that chooses would leave it as it is.
@pytest.mark.parametrize(
    ("agent", "more"), [("fine_tune", ["agent.learning_rate=0.01"]), ("random", [])]
)
def test_a_network_and_images_from_files_by_set(agent, more, custom_task, tmp_path, capsys):
    pairs = [*(f"{key}={json.dumps(value)}" for key, value in custom_task.items()), *more]
    chosen = [word for pair in pairs for word in ("--set", pair)]
    folder = tmp_path / "run"
    arguments = ["--env", "MaskWorld-v0", "--agent", agent, "--reward-calls", "16", *chosen]
    assert train.main([*arguments, "--out", str(folder)]) == 0
    assert edit.main([str(folder), "--export", "merged"]) == 0
    assert "forget_accuracy" in capsys.readouterr().out
    merged, given = load_file(folder / "merged.safetensors"), load_file(custom_task["weights"])
    assert merged.keys() == given.keys()
    assert not torch.equal(merged["fc2.weight"], given["fc2.weight"])


def test_a_custom_task_that_lacks_a_file_names_the_argument(custom_task, tmp_path, capsys):
    chosen = {**custom_task, "data": str(tmp_path / "nothing.npz")}
    pairs = [
        word for key, value in chosen.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    arguments = ["--env", "MaskWorld-v0", "--agent", "no_edit", *pairs]
    assert train.main([*arguments, "--out", str(tmp_path / "run")]) == 2
    assert "nothing.npz" in capsys.readouterr().err


TASK = '''
"""A task in a folder of its own: the digits, with another class to forget."""

from editgym.tasks import make_task


def other_digits(device, digit=4):
    return make_task("unlearning/digits", device=device, forget_class=digit)
'''


@pytest.mark.slow
def test_a_task_in_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "strange_tasks.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    chosen = ["--set", "task=strange_tasks:other_digits", "--set", "digit=5"]
    arguments = ["--env", "MaskWorld-v0", "--agent", "random", "--reward-calls", "16", *chosen]
    assert train.main([*arguments, "--out", str(folder)]) == 0
    assert edit.main([str(folder)]) == 0
    assert "forget_accuracy" in capsys.readouterr().out
    wrong = ["--set", "task=strange_tasks:no_digits"]
    arguments = ["--env", "MaskWorld-v0", "--agent", "random", *wrong]
    assert train.main([*arguments, "--out", str(tmp_path / "other")]) == 2
    assert "the module 'strange_tasks' has no 'no_digits'" in capsys.readouterr().err
