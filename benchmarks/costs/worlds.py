"""Timings of the worlds' steps, and of a PPO run in them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from agents.protocol import Budget
from agents.rl.agent import SB3Agent
from agents.rl.policies import lora_start
from benchmarks.costs.by_hand import BATCH, HandWrittenMaskWorld
from editgym.envs.protocol import edit_env
from editgym.envs.sb3 import monitored
from editgym.envs.worlds.candidates import Candidates
from editgym.tasks.unlearning.task import UnlearningTask
from editgym.weights import ActionLayout


def seconds_per_call(call: Callable[[], object], least: float, device: torch.device) -> float:
    """Mean time of `call` after one warm-up, over at least `least` seconds and three calls."""
    call()
    _wait(device)
    start, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - start < least:
        call()
        calls += 1
        _wait(device)
    return (time.perf_counter() - start) / calls


def by_hand(task: UnlearningTask, slots: int, least: float) -> float:
    """(a): seconds per candidate step."""
    env = DummyVecEnv([partial(HandWrittenMaskWorld, task, seed) for seed in range(slots)])
    env.reset()
    actions = np.stack([env.action_space.sample() for _ in range(slots)])
    with torch.no_grad():
        return seconds_per_call(lambda: env.step(actions), least, task.device) / slots


def single(kwargs: dict[str, Any], least: float, device: torch.device) -> float:
    """(b): seconds per step."""
    env = gym.make(gym.spec("MaskWorld-v0"), **kwargs)
    action = env.action_space.sample()

    def episode() -> None:
        env.reset()
        env.step(action)

    env.reset(seed=0)
    return seconds_per_call(episode, least, device)


def frame(kwargs: dict[str, Any], least: float, device: torch.device) -> float:
    """Seconds per picture of an episode of three edits."""
    env = gym.make(
        gym.spec("MaskWorld-v0"), render_mode="rgb_array", **kwargs | {"episode_length": 3}
    )
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    return seconds_per_call(env.render, least, device)


def vector(
    kwargs: dict[str, Any], candidates: int, least: float, device: torch.device, **options: Any
) -> float:
    """(c): seconds per candidate step."""
    env = gym.make_vec(gym.spec("MaskWorld-v0"), num_envs=candidates, **kwargs, **options)
    env.reset(seed=0)
    actions = np.asarray(env.action_space.sample())
    return seconds_per_call(lambda: env.step(actions), least, device) / candidates


def tensor_api(
    kwargs: dict[str, Any], candidates: int, least: float, device: torch.device
) -> float:
    """(e): seconds per candidate step of `Candidates` itself: actions and rewards stay on the
    device.
    """
    env = gym.make_vec(gym.spec("MaskWorld-v0"), num_envs=candidates, **kwargs)
    env.reset(seed=0)
    owner: Candidates = env.candidates  # type: ignore[attr-defined]
    actions = 2 * torch.rand(candidates, owner.layout.size, device=device) - 1

    def step() -> None:
        owner.reset()
        owner.step(actions)

    return seconds_per_call(step, least, device) / candidates


def bare_suffix(task: UnlearningTask, candidates: int, least: float) -> float:
    """(d): seconds per candidate for the products alone: W·h + b, ReLU, the output layer,
    probability of the class; W·h + b and that probability where the output layer is what is edited.

    The same K and batches as (c): every candidate has its own 2 × 1,024 activations, which lie
    ready in memory.
    """
    network = task.networks[0]
    site, state = network.sites[0].name, network.base.state_dict()
    weights = network.base_weights[0].expand(candidates, -1, -1).contiguous()
    rows = torch.randint(len(task.pool), (candidates, 2 * BATCH), device=task.device)
    activations = network.activations(task.pool.inputs)[0][rows]  # (K, 2 · batch, in)
    labels = task.pool.labels[rows].unsqueeze(-1)
    head = (state["fc3.bias"], state["fc3.weight"].mT) if site == "fc2" else None

    def products() -> torch.Tensor:
        logits = torch.baddbmm(state[f"{site}.bias"], activations, weights.mT)
        if head is not None:
            h = logits.relu_()
            logits = torch.addmm(head[0], h.flatten(0, 1), head[1]).unflatten(0, h.shape[:2])
        score = logits.softmax(-1).gather(-1, labels).squeeze(-1)
        return score.unflatten(-1, (2, BATCH)).mean(-1).cpu()

    with torch.no_grad():
        return seconds_per_call(products, least, task.device) / candidates


def ppo_run(
    make_env: Callable[[int], VecEnv], layout: ActionLayout, spec: EnvSpec, calls: int
) -> float:
    """Seconds of a PPO run with the agent's preset, `make_env(slots)` being made before the clock
    starts.
    """
    with closing(gym.make(spec)) as one:
        length = edit_env(one).episode_length
    agent = SB3Agent("ppo")
    settings = agent.resolved(spec).sized(length)
    assert settings.num_envs is not None
    if calls < settings.num_envs:
        agent = SB3Agent("ppo", rollout=calls, batch_size=calls)
        settings = agent.resolved(spec).sized(length)
    assert settings.num_envs is not None
    env = agent.refining(make_env(settings.num_envs), settings, spec)
    first = lora_start(layout, settings.start, torch.Generator().manual_seed(0))
    start = time.perf_counter()
    agent.train(env, first, settings, Budget(calls), 0, spec.kwargs["device"])
    return time.perf_counter() - start


def ppo_times(
    task: UnlearningTask, kwargs: dict[str, Any], calls: int, calls_by_hand: int
) -> dict[str, Any]:
    """Seconds of a whole PPO run on (a) and on (c); (a) from `calls_by_hand` of its reward
    calls.
    """
    spec = copy.deepcopy(gym.spec("MaskWorld-v0"))
    spec.kwargs.update(kwargs)
    layout = ActionLayout(tuple(site.shape for site in task.networks[0].sites))

    def slow(slots: int) -> VecEnv:
        return DummyVecEnv([partial(HandWrittenMaskWorld, task, seed) for seed in range(slots)])

    def fast(slots: int) -> VecEnv:
        return monitored(gym.make_vec(spec, num_envs=slots, shared_batch=True))

    by_hand = ppo_run(slow, layout, spec, calls_by_hand)
    return {
        "ppo_calls": calls,
        "ppo_by_hand_measured_calls": calls_by_hand,
        "ppo_by_hand_s": by_hand * calls / calls_by_hand,
        "ppo_vector_s": ppo_run(fast, layout, spec, calls),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
