"""What the worlds' timings are of: the environment written by hand is the same as ours, clocks are
read as they should be, and ratios are of what stands beside them."""

import json
import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from benchmarks.costs import throughput, worlds
from benchmarks.costs.by_hand import HandWrittenMaskWorld
from benchmarks.costs.worlds import seconds_per_call
from editgym.tasks import make_task


def test_the_environment_by_hand_masks_as_ours_does():
    task = make_task("unlearning/digits")
    by_hand = HandWrittenMaskWorld(task, seed=0)
    original = task.networks[0].base_weights[0]
    before, _ = by_hand.reset()
    assert np.array_equal(before, original.flatten().numpy())
    rows, columns = original.shape
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, by_hand.action_space.shape).astype(np.float32)
    a, b = action[: rows * 4].reshape(rows, 4), action[rows * 4 :].reshape(4, columns)
    mask = np.clip(1 + np.clip(a @ b / 2, -1, 1), 0, 1)
    with torch.no_grad():
        after, _, terminated, *_ = by_hand.step(action)
    assert terminated
    assert after == pytest.approx((original.numpy() * mask).flatten(), abs=1e-6)
    assert np.array_equal(by_hand.reset()[0], before)


def test_the_environment_by_hand_rewards_as_ours_does():
    task = make_task("unlearning/digits")
    by_hand, ours = HandWrittenMaskWorld(task, seed=0), gym.make("MaskWorld-v0")
    nothing = np.zeros(by_hand.action_space.shape, np.float32)
    assert ours.action_space.shape == nothing.shape
    ours.reset(seed=0)
    rewards = []
    for _ in range(5):
        by_hand.reset()
        ours.reset()
        with torch.no_grad():
            rewards.append((by_hand.step(nothing)[1], float(ours.step(nothing)[1])))
    assert np.mean(rewards, axis=0)[0] == pytest.approx(np.mean(rewards, axis=0)[1], abs=0.05)


@pytest.mark.parametrize(("least", "calls"), [(0.0, 3), (10.0, 5)])
def test_the_warm_up_is_not_timed_and_slow_calls_are_made_three_times(monkeypatch, least, calls):
    now, made = [0.0], []
    monkeypatch.setattr(worlds.time, "perf_counter", lambda: now[0])

    def call():
        made.append(None)
        now[0] += 100.0 if len(made) == 1 else 2.0

    assert seconds_per_call(call, least, torch.device("cpu")) == 2.0
    assert len(made) == 1 + calls


def test_the_table_has_the_ratios_of_its_timings():
    result = {
        "task": "unlearning/digits",
        "pool": 1_000,
        "a_by_hand_us": 8_000.0,
        "b_single_us": 400.0,
        "c_vector_us": {"8": 100.0},
        "c_vector_shared_batch_us": {"8": 50.0},
        "d_bare_suffix_us": {"8": 75.0},
        "e_tensor_api_us": {"8": 60.0},
        "frame_us": 30_000.0,
        "ppo_by_hand_s": 90.0,
        "ppo_vector_s": 3.0,
        "ppo_calls": 20_480,
        "ppo_by_hand_measured_calls": 256,
    }
    text = throughput.table(result)
    assert re.search(r"a picture of an episode +30000\.0 us", text)
    assert "(a)/(b) = 20" in text
    assert "(a)/(c) = 80   (d)/(c) = 0.75   10,000 candidate steps/s" in text
    assert (
        "20,480 reward calls: by hand 90.0 s (from 256 of them), vector 3.0 s, ratio 30.0" in text
    )
    assert "(from" not in throughput.table({**result, "ppo_by_hand_measured_calls": 20_480})


def test_everything_is_timed_and_a_part_of_a_run_is_scaled(tmp_path, capsys):
    file = tmp_path / "new" / "throughput.json"
    asked = ["--tasks", "unlearning/digits", "--sizes", "2", "--seconds", "0"]
    asked += ["--ppo-calls", "64", "--ppo-calls-by-hand", "8", "--json", str(file)]
    assert throughput.main(asked) == 0
    found = json.loads(file.read_text())
    assert capsys.readouterr().out == throughput.table(found["tasks"][0]) + "\n"
    (task,) = found["tasks"]
    timings = [value for key, value in task.items() if key.endswith("_us")]
    flat = [
        t for value in timings for t in (value.values() if isinstance(value, dict) else [value])
    ]
    assert len(flat) == 7
    assert min(flat) > 0
    assert task["ppo_by_hand_measured_calls"] == 8
    assert task["ppo_by_hand_s"] > 0 < task["ppo_vector_s"]
    assert found["hardware"]["device"] == "cpu"
    assert task["pool"] == len(make_task("unlearning/digits").pool)


def test_a_device_that_is_not_there_is_an_error(tmp_path, capsys):
    assert throughput.main(["--device", "gpu", "--json", str(tmp_path / "t.json")]) == 2
    assert "device" in capsys.readouterr().err
