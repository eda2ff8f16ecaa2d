import os
import signal
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.envs import metering
from editgym.envs.metering import count_reward_calls
from editgym.envs.protocol import gradient_env


def test_every_candidate_of_every_environment_is_counted(world, make, actions):
    env, vector = make(world), gym.make_vec(f"editgym:{world}", num_envs=3)
    env.reset(seed=0)
    vector.reset(seed=0)
    with count_reward_calls() as outer:
        env.step(actions(env.action_space)[0])
        with count_reward_calls() as inner:
            vector.step(actions(vector.action_space)[0])
        env.reset()
        env.step(actions(env.action_space)[0])
    env.reset()
    env.step(actions(env.action_space)[0])
    assert (outer.calls, inner.calls) == (5, 3)


def test_refused_actions_and_resets_are_not_counted(world, make, actions):
    env = make(world)
    with count_reward_calls() as meter:
        env.reset(seed=0)
        with pytest.raises(ValueError, match="action"):
            env.step(actions(env.action_space)[0] + 9)
    assert meter.calls == 0


@pytest.mark.parametrize("action", ["coefficients", "factors"])
def test_every_rewarded_step_of_a_stream_is_counted(action):
    env = gym.make(
        "editgym:LifelongLLMEdit-v0",
        horizon=3,
        edits_per_step=1,
        sites=["model.layers.5.mlp.down_proj"],
        action=action,
    )
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape, np.float32)
    with count_reward_calls() as meter:
        env.step(still)
        assert meter.calls == 1
        env.step(still)
        assert meter.calls == 2
        if action == "coefficients":
            gradient_env(env).differentiable_step(torch.from_numpy(still))
            assert meter.calls == 3


def test_steps_that_can_be_differentiated_are_told_apart(world, make, actions):
    env = make(world)
    env.reset(seed=0)
    with count_reward_calls() as meter:
        env.step(actions(env.action_space)[0])
        env.reset()
        gradient_env(env).differentiable_step(torch.from_numpy(actions(env.action_space)[0]))
    assert (meter.calls, meter.gradients) == (2, 1)


def test_rewards_of_forked_processes_are_counted_also_when_they_are_killed():
    with count_reward_calls() as meter:
        metering.record(1)
        for _ in range(3):
            child = os.fork()
            if not child:
                metering.record(10, gradient=True)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(child, 0)
        metering.record(2)
        assert (meter.calls, meter.gradients) == (33, 30)
    metering.record(5)
    assert meter.calls == 33


def test_rewards_of_threads_are_all_counted():
    with count_reward_calls() as meter:
        threads = [
            threading.Thread(target=lambda: [metering.record(1) for _ in range(500)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert meter.calls == 2_000


def test_a_new_process_finds_the_meters_by_the_environment():
    code = "from editgym.envs import metering; metering.record(7)"
    with count_reward_calls() as meter:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert meter.calls == 7
    assert metering.VARIABLE not in os.environ


def test_a_meter_that_is_switched_off_is_an_error():
    with pytest.raises(metering.MeterError, match="switched off"), count_reward_calls():
        metering._counters.folders.clear()
    assert metering.VARIABLE not in os.environ, "nobody counts into it any more"
