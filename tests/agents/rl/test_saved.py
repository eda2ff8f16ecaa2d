"""Agents that were saved before the modules had rooms of their own; `saved/` holds two of them.

Both were trained for a moment. `actions.safetensors` holds the mean actions of their policies for
the observations that `observation` makes.
"""

import shutil
import sys
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from agents.rl import saved
from agents.rl.agent import SB3Agent
from agents.rl.general_editor import GeneralEditor

SAVED = Path(__file__).parent / "saved"
CLASSES = {"ppo": SB3Agent, "general_editor": GeneralEditor}
ENVIRONMENTS = {
    "ppo": {"sites": ["fc3"], "rank": 1},
    "general_editor": {"rank": 1, "observe_task": True, "observe_parameters": ["fc3.weight"]},
}


def observation(agent):
    made = np.linspace(-1, 1, agent.model.observation_space.shape[0], dtype=np.float32)
    if isinstance(agent, GeneralEditor):  # the goal: class 7
        made[-10:] = np.eye(10)[7]
    return made


@pytest.mark.parametrize("name", CLASSES)
def test_an_agent_that_names_modules_by_their_old_names_is_loaded_and_edits(name):
    agent = CLASSES[name].load(SAVED / name)
    action, _ = agent.model.predict(observation(agent), deterministic=True)
    np.testing.assert_allclose(
        action, load_file(SAVED / "actions.safetensors")[name], rtol=1e-4, atol=1e-5
    )
    env = gym.make("ShiftWorld-v0", **ENVIRONMENTS[name])
    journal = agent.edit(env)
    seen, _ = env.reset()
    expected, _ = agent.model.predict(seen, deterministic=True)
    (update,) = env.unwrapped.layout.unpack(torch.from_numpy(expected))
    (entry,) = journal
    np.testing.assert_allclose(entry.update.matrix(), update.matrix(), rtol=1e-5, atol=1e-6)
    assert agent.settings.refine == 0.2


def test_old_names_are_known_while_an_agent_is_loaded_alone(monkeypatch):
    seen = []
    load = saved.importlib.import_module
    monkeypatch.setattr(
        saved.importlib, "import_module", lambda name: (seen.append(name), load(name))[1]
    )
    SB3Agent.load(SAVED / "ppo")
    assert sorted(seen) == sorted(saved.MOVED.values())
    assert not set(saved.MOVED) & set(sys.modules)


def test_an_agent_that_cannot_be_read_says_to_train_again(monkeypatch):
    monkeypatch.setattr(saved, "MOVED", {})
    with pytest.raises(ValueError, match=r"No module named 'agents\.\w+'; train the agent again"):
        SB3Agent.load(SAVED / "ppo")


@pytest.mark.parametrize("keep", [0, 20, 1_000, -100])
def test_a_damaged_agent_is_named(keep, tmp_path):
    shutil.copytree(SAVED / "ppo", tmp_path / "ppo")
    file = tmp_path / "ppo" / "model.zip"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.zip is damaged or is no agent: train the agent"):
        SB3Agent.load(tmp_path / "ppo")


def test_a_zip_file_of_something_else_is_named(tmp_path):
    shutil.copytree(SAVED / "ppo", tmp_path / "ppo")
    with zipfile.ZipFile(tmp_path / "ppo" / "model.zip", "w") as file:
        file.writestr("notes.txt", "mine")
    with pytest.raises(ValueError, match=r"model\.zip is damaged or is no agent"):
        SB3Agent.load(tmp_path / "ppo")


def test_a_folder_without_a_policy_is_named(tmp_path):
    shutil.copy(SAVED / "ppo" / "agent.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no agent in .*model\.zip"):
        SB3Agent.load(tmp_path)
