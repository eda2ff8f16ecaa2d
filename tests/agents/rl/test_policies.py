"""The start that is no edit and no saddle point, and the sketch that policies see."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3

from agents.rl.agent import SB3Agent
from agents.rl.general_editor import GeneralEditor
from agents.rl.policies import (
    RefiningEdits,
    WeightSketch,
    lora_start,
    set_mean_action,
    silence_critic,
)
from editgym.envs.sb3 import monitored
from editgym.weights import ActionLayout

LAYOUT = ActionLayout(((6, 5), (4, 9)), rank=2)


def reward_gradient(start):
    env = gym.make_vec("MaskWorld-v0", num_envs=1)
    env.reset(seed=0)
    action = start(env.layout).clamp(-1, 1).unsqueeze(0).requires_grad_()
    env.candidates.step(action, differentiable=True).reward.sum().backward()
    return action.grad


def test_the_start_is_no_edit():
    start = lora_start(LAYOUT, 0.5, torch.Generator().manual_seed(0))
    assert start.shape == (LAYOUT.size,)
    assert start.abs().max() <= 1
    assert start.any()
    assert all(not update.matrix().any() for update in LAYOUT.unpack(start))


def test_the_reward_has_a_gradient_at_the_start_and_none_at_zero():
    assert not reward_gradient(lambda layout: torch.zeros(layout.size)).any()
    assert reward_gradient(
        lambda layout: lora_start(layout, 0.5, torch.Generator().manual_seed(0))
    ).any()


def test_with_full_rank_the_start_is_zero():
    assert not lora_start(ActionLayout(((6, 5),), rank="full"), 0.5, torch.Generator()).any()


@pytest.mark.parametrize("algorithm", [PPO, SAC, TD3])
def test_the_policy_starts_at_the_action_asked_for(algorithm):
    env = monitored(gym.make_vec("MaskWorld-v0", num_envs=2))
    model = algorithm(
        "MlpPolicy",
        env,
        seed=0,
        policy_kwargs={"net_arch": [8]},
        **({} if algorithm is PPO else {"buffer_size": 10}),
    )
    wanted = lora_start(env.venv.env.layout, 0.5, torch.Generator().manual_seed(0))
    observation = env.reset()[:1]
    before, _ = model.predict(observation, deterministic=True)
    assert set_mean_action(model, wanted)
    after, _ = model.predict(observation, deterministic=True)
    distance = torch.from_numpy(after[0]) - wanted
    assert distance.abs().mean() < 0.1  # the rest of the untrained network still adds to the bias
    assert (torch.from_numpy(before[0]) - wanted).abs().mean() > distance.abs().mean()


def test_the_sketch_is_the_same_in_every_policy_and_blind_to_scale():
    space = spaces.Box(-1, 1, (50,))
    one, other = WeightSketch(space, 8), WeightSketch(space, 8)
    weights = torch.randn(3, 50)
    assert torch.equal(one(weights), other(weights))
    assert torch.allclose(one(weights), one(7 * weights), atol=1e-3)
    assert not torch.allclose(one(weights[:1]), one(weights[1:2]), atol=1e-2)


def test_later_edits_are_scaled_and_every_step_is_rewarded_by_its_improvement():
    settings = {"num_envs": 3, "episode_length": 3, "shared_batch": True}
    plain, refined = (gym.make_vec("ShiftWorld-v0", **settings) for _ in range(2))
    wrapped = RefiningEdits(monitored(refined), refine=0.5, improving=False)
    plain.reset(seed=0)
    wrapped.seed(0)
    wrapped.reset()
    random = np.random.default_rng(0)
    before = 0.0
    for step in range(6):
        actions = random.uniform(-1, 1, plain.action_space.shape).astype(np.float32)
        first = step % 3 == 0
        _, rewards, *_ = plain.step(actions if first else 0.5 * actions)
        _, gains, dones, _ = wrapped.step(actions)
        improvement = rewards if first else rewards - before
        np.testing.assert_allclose(gains, improvement - improvement.mean(), atol=1e-6)
        assert dones.all() == (step % 3 == 2)
        before = rewards


@pytest.mark.parametrize("agent", [SB3Agent("a2c"), GeneralEditor()], ids=["a2c", "general"])
@pytest.mark.parametrize("reward", ["improvement", "absolute"])
def test_an_episode_is_worth_what_its_last_edit_left_whatever_a_reward_is(agent, reward):
    arguments = {"episode_length": 3, "reward": reward, "batch_size": 64, "rank": 4}
    seen = {"observe_task": True, "observe_parameters": ["fc3.weight"]}
    spec = gym.make("ShiftWorld-v1", **arguments, **seen, observe="weights").spec
    settings = dataclasses.replace(agent.resolved(spec), num_envs=4, refine=1.0, shared_batch=True)
    env, _ = agent.training_env(spec, settings, gym.make(spec).unwrapped.layout, 0)
    plain = gym.make_vec(spec, num_envs=4, shared_batch=True)
    plain.reset(seed=0)
    env.seed(0)
    env.reset()
    drawn = np.random.default_rng(0).uniform(-1, 1, (3, *plain.action_space.shape))
    rewards = [plain.step(actions.astype(np.float32))[1] for actions in drawn]
    gains = [env.step(actions.astype(np.float32))[1] for actions in drawn]
    worth = np.sum(rewards, axis=0) if reward == "improvement" else rewards[-1]
    np.testing.assert_allclose(np.sum(gains, axis=0), worth - worth.mean(), atol=1e-5)


def test_the_silent_critic_says_zero_and_learns_nothing():
    env = monitored(gym.make_vec("MaskWorld-v0", num_envs=4))
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=4,
        batch_size=16,
        vf_coef=0.0,
        seed=0,
        policy_kwargs={"net_arch": [8]},
    )
    silence_critic(model)
    model.learn(32)
    assert not model.policy.predict_values(torch.from_numpy(env.reset())).any()
