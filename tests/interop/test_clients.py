"""Every client library makes the worlds, steps them and learns a little, by the scripts that a user
copies from `examples/`, in an environment of its own with the newest Gymnasium that it allows.

`make interop` makes the environments; where there is none, the client's tests are skipped.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import venvs

ROOT = Path(__file__).resolve().parents[2]
CALLS, ENVS = 256, 4  # few: that it learns well is what the rows of docs/results/off_the_shelf say
SB3 = ("A2C", "ARS", "DDPG", "PPO", "SAC", "TD3", "CrossQ", "RecurrentPPO", "TQC", "TRPO")
OFF_POLICY = ("CrossQ", "DDPG", "SAC", "TD3", "TQC")  # 100 random steps, then a gradient step each
SCRIPTS = {
    **{f"sb3.py --algorithm {name}": "sb3" for name in SB3},
    "sb3.py --normalize": "sb3",
    'sb3.py --settings {"n_steps":16}': "sb3",
    "tensorboard_log.py": "sb3",
    "cleanrl_ppo.py": "cleanrl",
    "cleanrl_sac.py --total-calls 8": "cleanrl",
    "torchrl_ppo.py": "torchrl",
    "rllib_ppo.py": "rllib",
    "rl_zoo3_ppo.py": "rl_zoo3",
    "tianshou_ppo.py": "tianshou",
    "skrl_ppo.py": "skrl",
}
CORE = (
    "envs/test_registry.py",
    "envs/test_wrappers.py",
    "envs/test_sb3_adapter.py",
    "envs/worlds/test_autoreset.py",
)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@pytest.fixture
def python():
    """`python(client, *arguments)`: what the client's interpreter prints, run in this folder."""

    def run(client, *arguments, cwd="."):
        if reason := venvs.failure(client):
            pytest.skip(f"{client}: {reason}")
        done = subprocess.run(
            [venvs.python(client), *arguments],
            cwd=cwd,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
        return done.stdout

    return run


@pytest.mark.parametrize("client", venvs.CLIENTS)
def test_versions_are_those_that_the_client_allows(python, client):
    python(client, "-c", "import editgym, gymnasium; gymnasium.make('editgym/MaskWorld-v1')")
    print(versions := venvs.versions(client))
    (oldest,) = re.findall(r"gymnasium>=([\d.]+)", (ROOT / "setup.cfg").read_text())
    if client == "gymnasium_oldest":
        assert f"gymnasium {oldest}.0" in versions


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("world", ["MaskWorld-v1", "ShiftWorld-v1"])
def test_an_example_learns_in_a_world(python, tmp_path, script, world):
    name, *arguments = script.split()
    if world == "ShiftWorld-v1" and name == "sb3.py" and script != "sb3.py --algorithm PPO":
        pytest.skip("one world shows it")
    calls = 104 if script.endswith(OFF_POLICY) else CALLS
    common = f"--env-id {world} --num-envs {ENVS} --total-calls {calls} --seed 1 --out row.jsonl"
    shown = python(
        SCRIPTS[script], ROOT / "examples" / name, *common.split(), *arguments, cwd=tmp_path
    )
    (row,) = map(json.loads, (tmp_path / "row.jsonl").read_text().splitlines())
    assert row["world"] == world
    assert row["reward_calls"] >= row["total_calls"]
    assert row["reward_before"] == 0
    assert row["reward"] != 0, "the policy that was learned is still no edit"
    assert math.isfinite(row["reward"])
    for name in ("retain_accuracy", "forget_accuracy"):
        assert 0 <= row[name] <= 1
        assert f"{name} {row[f'{name}_before']:.3f} → {row[name]:.3f}" in shown
    assert row["versions"]["gymnasium"] in venvs.versions(SCRIPTS[script])


def test_ten_lines_are_what_the_script_learns(python, tmp_path):
    example = (ROOT / "examples" / "sb3_ten_lines.py").read_text()
    assert len([line for line in example.splitlines() if line]) <= 10
    few = example.replace("20_480", "256").replace("num_envs=64", "num_envs=4")
    shown = python("sb3", "-c", few)
    common = "--num-envs 4 --total-calls 256 --out row.jsonl"
    python("sb3", ROOT / "examples" / "sb3.py", *common.split(), cwd=tmp_path)
    row = json.loads((tmp_path / "row.jsonl").read_text())
    assert f"'retain_accuracy': {row['retain_accuracy']!r}" in shown
    assert f"'forget_accuracy': {row['forget_accuracy']!r}" in shown


def test_a_video_is_recorded(python, tmp_path):
    script = ROOT / "examples" / "record_video.py"
    python("gymnasium", script, *["--num-envs", "2", "--total-calls", "64"], cwd=tmp_path)
    (video,) = (tmp_path / "runs" / "video").glob("*.mp4")
    assert video.stat().st_size > 1_000


def test_torchrl_makes_a_single_environment(python):
    code = (
        "import editgym; from torchrl.envs import GymEnv, check_env_specs\n"
        "env = GymEnv('MaskWorld-v1'); check_env_specs(env)\n"
        "print(env.rollout(3)['next', 'reward'].shape)"
    )
    assert "torch.Size([1, 1])" in python("torchrl", "-c", code)


@pytest.mark.parametrize("client", ["gymnasium", "gymnasium_oldest"])
def test_core_tests_pass_with_the_newest_and_the_oldest_gymnasium(python, client):
    files = [ROOT / "tests" / name for name in CORE]
    arguments = ["-q", "-m", "not slow", "-p", "no:cacheprovider", "--rootdir", ROOT]
    assert " passed" in python(client, "-m", "pytest", *arguments, *files)
