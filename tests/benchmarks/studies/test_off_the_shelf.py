"""Agents as their library has them: what is run, and what is printed of it."""

import json

import gymnasium as gym
import numpy as np
import stable_baselines3

from benchmarks.studies import off_the_shelf
from editgym.envs.protocol import edit_env


def row(world, seed, forget, retain):
    return {
        "world": world,
        "algorithm": "PPO",
        "reward_calls": 20_480,
        "seed": seed,
        "forget_accuracy": forget,
        "forget_accuracy_before": 0.9 + seed / 50,
        "retain_accuracy": retain,
        "retain_accuracy_before": 0.95,
    }


def test_the_table_has_every_run_in_percent():
    rows = [row("A-v1", 0, 0.1, 0.9), row("A-v1", 1, 0.25, 0.8), row("B-v1", 0, 0.0, 1.0)]
    assert off_the_shelf.table(rows).split("\n") == [
        "| world | agent | reward calls | n | forget | retain |",
        "|---|---|--:|--:|--:|--:|",
        "| A-v1 | SB3 PPO | 20,480 | 2 | 91.0 → 10.0, 25.0 | 95.0 → 90.0, 80.0 |",
        "| B-v1 | SB3 PPO | 20,480 | 1 | 90.0 → 0.0 | 95.0 → 100.0 |",
    ]


def test_a_run_is_judged_on_test_data_by_the_edit_of_its_policy(tmp_path, capsys, monkeypatch):
    small = {"n_steps": 4, "batch_size": 8}
    monkeypatch.setitem(off_the_shelf.ALGORITHMS, "PPO", (2, small))
    learned = []

    class Learned(stable_baselines3.PPO):
        """Learns as PPO does, and then has a policy that is known."""

        def learn(self, calls):
            learned.append(super().learn(calls).num_timesteps)

        def predict(self, observation, deterministic=False):
            assert deterministic
            return action, None

    monkeypatch.setattr(stable_baselines3, "PPO", Learned)
    with gym.make("MaskWorld-v1", model_seed=0) as env:
        env.reset(seed=0)
        unedited = edit_env(env).evaluate(edit_env(env).journal).metrics
        action = np.random.default_rng(0).uniform(-1, 1, env.action_space.shape).astype("float32")
        over = False
        while not over:
            _, _, over, truncated, _ = env.step(action)
            over = over or truncated
        edited = edit_env(env).evaluate(edit_env(env).journal).metrics
    file = tmp_path / "rows.json"
    asked = ["--worlds", "MaskWorld-v1", "--reward-calls", "8", "--seeds", "1", "--networks"]
    assert off_the_shelf.main([*asked, "--json", str(file)]) == 0
    (found,) = json.loads(file.read_text())
    captured = capsys.readouterr()
    assert json.loads(captured.err.splitlines()[-1]) == found
    assert captured.out == off_the_shelf.table([found]) + "\n"
    assert learned == [8]
    assert (found["num_envs"], found["settings"]) == (2, small)
    assert found["env_kwargs"] == {"model_seed": 0}
    for name in ("forget_accuracy", "retain_accuracy"):
        assert found[f"{name}_before"] == unedited[name]
        assert found[name] == edited[name]
    assert edited != unedited
