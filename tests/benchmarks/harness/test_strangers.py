"""Parts by import path from a folder outside the package: suites, tasks, environments, agents."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import leaderboard
from benchmarks.harness.strangers import find_modules_in, module_hashes
from benchmarks.results import ROWS_FILE, read_rows
from benchmarks.suites.cells import SUITES, cells, find_suite
from benchmarks.suites.given import read_given

# An environment with a number to edit, a metric family, an agent with settings, and their suite.
MODULE = '''
import dataclasses

import gymnasium as gym
import numpy as np
import torch

from agents.configured import ConfiguredAgent, Settings, setting
from benchmarks.report.families import FAMILIES, Family
from benchmarks.suites.entry import Entry, Suite
from editgym.checks import at_least
from editgym.metrics.evaluation import Evaluation
from editgym.weights import ActionLayout, EditJournal, ReplaceTensors


class Number(gym.Env):
    """A number to set; near to 0.5 is good."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    layout = ActionLayout(((1, 1),), "full")
    episode_length = 1
    choices = {}

    def __init__(self, task="number", device="cpu", start=0.0):
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.journal = EditJournal("number")
        return np.zeros(1, np.float32), {}

    def step(self, action):
        number = torch.tensor(float(action[0]), dtype=torch.float64)
        self.journal.append(ReplaceTensors({"number": number}))
        return np.zeros(1, np.float32), 0.0, True, False, {}

    def evaluate(self, journal):
        number = self.start
        for entry in journal:
            number = float(entry.tensors["number"])
        near, before = 1 - abs(number - 0.5), 1 - abs(self.start - 0.5)
        return Evaluation({"nearness": near, "nearness_before": before})


gym.register("Number-v0", entry_point=Number)
FAMILIES["numbers"] = Family(
    "numbers", {"nearness": "higher", "nearness_before": None}, lambda m: m.get("nearness"),
    "nearness", ("nearness", "nearness_before"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetterSettings(Settings):
    """What number is set."""

    number: float = setting(0.2, at_least(0))
    steps: int = setting(1)


class Setter(ConfiguredAgent):
    """Sets a number."""

    name = "setter"
    access = "data"
    settings_type = SetterSettings

    def learn(self, env_spec, budget, seed, out=None):
        pass

    def edit(self, env):
        env.reset()
        env.step(np.array([self.settings.number], np.float32))
        return env.unwrapped.journal


_AGENTS = ("parts.numbers:Setter",)
SUITE = Suite(
    "numbers", 2, (Entry("parts.numbers:Number-v0", "number", _AGENTS, seed_kwarg=None),)
)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a package that is nowhere else."""
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "numbers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(folder, *arguments):
    """The leaderboard in a process of its own, which knows nothing but its working directory."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.leaderboard", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_strangers_parts_run_with_two_jobs_and_validate(folder):
    run = command(
        folder,
        *("run", "--suite", "parts.numbers:SUITE", "--jobs", "2", "--out", "out"),
        *("--set", "parts.numbers:Setter.number=0.375"),
    )
    assert run.returncode == 0, run.stderr
    rows = read_rows(folder / "out" / ROWS_FILE)
    assert [row["status"] for row in rows] == ["finished"] * 2
    for row in rows:
        assert row["suite"] == "parts.numbers:SUITE"
        assert row["metrics"]["nearness"] == 0.875
        assert row["agent_config"] == {"number": 0.375}
        assert row["settings"] == {"number": 0.375, "steps": 1}
        assert set(row["modules"]) == {"parts.numbers"}
        assert len(row["modules"]["parts.numbers"]) == 64
    assert "nearness ↑" in (folder / "out" / "LEADERBOARD.md").read_text()
    validated = command(folder, "validate", "out", "--sample", "2")
    assert "2 of 2 rows reproduced" in validated.stdout, validated.stderr


def test_modules_are_told_apart_by_their_content(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    find_modules_in([str(folder)])
    (cell, *_) = cells(find_suite("parts.numbers:SUITE"))
    before = module_hashes(cell)
    (folder / "parts" / "numbers.py").write_text(MODULE + "# another\n")
    assert module_hashes(cell) != before
    (folder / "parts" / "numbers.py").write_text(MODULE)
    assert module_hashes(cell) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "parts.nowhere:SUITE"], "cannot import the module 'parts.nowhere'"),
        (["--suite", "json:loads"], "must be a Suite"),
        (["--suite", "quick", "--set", "ppo"], "--set must be NAME.KEY=VALUE, got 'ppo'"),
        (["--suite", "quick", "--set", "pppo.rollout=1"], "unknown agent or task to set 'pppo'"),
        (["--suite", "quick", "--settings", "list.json"], "must be {NAME: {KEY: VALUE}}"),
        (["--suite", "quick", "--tasks", "mine:task"], "say with --envs in which"),
        (["--suite", "quick", "--envs", "MaskWorld"], "did you mean MaskWorld-v0"),
        (["--suite", "quick", "--envs", "MaskWorld-v1"], "it is in rewards (--suite)"),
    ],
)
def test_mistakes_are_named(folder, capsys, arguments, message):
    (folder / "list.json").write_text("[]")
    assert leaderboard.main(["run", *arguments, "--out", "out"]) == 2
    assert message in capsys.readouterr().err


def test_settings_from_file_and_command_line(tmp_path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"ppo": {"rollout": 8, "gamma": 0.9}}))
    given = read_given([file], ["ppo.rollout=16", "unlearning/custom.weights=a.b", "a.b:C.x=[1]"])
    assert given == {
        "ppo": {"rollout": 16, "gamma": 0.9},
        "unlearning/custom": {"weights": "a.b"},
        "a.b:C": {"x": [1]},
    }


@pytest.mark.parametrize(
    ("typed", "sites"),
    [
        ({"model": "factlm"}, "the suite's"),
        ({"model": "factlm-10m"}, "the suite's"),
        ({"model": "gpt2"}, None),
        ({"model": "gpt2", "sites": ["transformer.h.3.mlp.c_proj"]}, "as typed"),
    ],
)
def test_sites_of_the_suites_model_are_not_opened_in_another(typed, sites):
    task, quick = "knowledge/custom", SUITES["quick"]
    (own,) = {str(entry.env_kwargs.get("sites")) for entry in quick.entries} - {"None"}
    (cell,) = cells(
        quick, tasks=[task], agents=["no_edit"], given={task: {"requests": "f", **typed}}, seeds=1
    )
    expected = {"the suite's": own, None: "None", "as typed": str(typed.get("sites"))}[sites]
    assert str(cell.env_kwargs.get("sites")) == expected


def test_a_task_of_another_suite_is_named_with_it():
    with pytest.raises(ValueError, match=r"unknown task .*; it is in encoder.* \(--suite\)"):
        cells(SUITES["quick"], tasks=["debiasing/transformer"])


def test_a_custom_task_takes_the_place_of_its_family():
    chosen = cells(
        SUITES["quick"],
        tasks=["unlearning/custom"],
        agents=["no_edit"],
        given={"unlearning/custom": {"model": "mine.pt"}, "no_edit": {}},
        seeds=1,
    )
    assert sorted((cell.env_id, cell.task, cell.reward_calls) for cell in chosen) == [
        (world, "unlearning/custom", 10_240) for world in ("MaskWorld-v0", "ShiftWorld-v0")
    ]
    assert all(cell.env_kwargs["model"] == "mine.pt" for cell in chosen)


def test_networks_that_are_named_are_not_told_by_the_seed_too():
    given = {"unlearning/digits": {"networks": [0, 1]}}
    chosen = cells(SUITES["quick"], tasks=["unlearning/digits"], agents=["no_edit"], given=given)
    assert {cell.seed for cell in chosen} > {0}
    assert all("model_seed" not in cell.env_kwargs for cell in chosen)


def test_a_task_by_import_path_takes_the_place_of_those_of_an_environment():
    chosen = cells(
        SUITES["quick"], tasks=["mine:task"], env_ids=["MaskWorld-v0"], agents=["no_edit"], seeds=1
    )
    assert [(cell.env_id, cell.task) for cell in chosen] == [("MaskWorld-v0", "mine:task")]
    assert chosen[0].strangers == ("mine:task",)
