"""Libraries that take seconds to load are loaded by what uses them, and by nothing else."""

import subprocess
import sys

import pytest

SLOW = ("transformers", "torchvision", "sklearn", "scipy", "pandas", "matplotlib", "optuna", "peft")


def loaded_by(code):
    """Which of the slow libraries a fresh process has loaded after running some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in SLOW if name in done.stdout.split()}


@pytest.mark.parametrize("module", ["agents.edit", "agents.train", "benchmarks.leaderboard"])
def test_a_command_that_only_answers_waits_for_none(module):
    assert loaded_by(f"import {module}") == set()


def test_a_world_of_bundled_networks_waits_for_none():
    code = """
import gymnasium, editgym
env = gymnasium.make("ShiftWorld-v1", task="unlearning/digits")
env.reset(seed=0)
env.step(env.action_space.sample())
"""
    assert loaded_by(code) == set()


def test_what_is_used_is_seen():
    assert "sklearn" in loaded_by("import sklearn")
