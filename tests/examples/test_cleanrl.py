"""The parts of the examples that are whole algorithms: normalisation, advantages, transitions."""

import importlib
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import NormalizeReward

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(monkeypatch):
    """`example(name)`: the module of a file in `examples/`."""
    monkeypatch.syspath_prepend(EXAMPLES)
    yield importlib.import_module
    for file in EXAMPLES.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_moments_are_those_of_all_rows(example):
    moments = example("cleanrl_ppo").Moments(3)
    rows = np.random.default_rng(0).normal([1, -2, 30], [1, 0.1, 5], (50, 3))
    for some in np.split(rows, [1, 7, 30]):
        moments.add(some)
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-3)
    np.testing.assert_allclose(moments.spread(), rows.std(0), rtol=1e-3)


def test_advantages_are_the_sums_of_discounted_errors(example):
    ppo = example("cleanrl_ppo")
    torch.manual_seed(0)
    steps, count = 5, 2
    batch = {name: torch.randn(steps, count) for name in ("reward", "value")}
    batch["done"] = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]], dtype=torch.float32)
    last = torch.randn(count)
    values = torch.cat([batch["value"], last[None]])
    found = ppo.advantages(batch, last)
    for env in range(count):
        for start in range(steps):
            expected, weight = 0.0, 1.0
            for step in range(start, steps):
                alive = 1 - batch["done"][step, env]
                error = batch["reward"][step, env] - values[step, env]
                expected += weight * (error + ppo.GAMMA * alive * values[step + 1, env])
                weight *= ppo.GAMMA * ppo.LAMBDA * alive
            assert found[start, env] == pytest.approx(float(expected), abs=1e-5)


def test_one_environment_s_rewards_are_normalised_as_gymnasium_does(example):
    ppo = example("cleanrl_ppo")
    ours = ppo.Normalised(gym.make_vec("MaskWorld-v1", num_envs=1))
    theirs = NormalizeReward(gym.make("MaskWorld-v1"), gamma=ppo.GAMMA)
    ours.reset(seed=3)
    theirs.reset(seed=3)
    draw = np.random.default_rng(0)
    for _ in range(6):
        action = draw.uniform(-1, 1, theirs.action_space.shape).astype(np.float32)
        _, reward, over = ours.step(torch.from_numpy(action[None]))
        expected = theirs.step(action)[1]
        assert bool(over)
        assert float(reward) == pytest.approx(np.clip(expected, -ppo.BOUND, ppo.BOUND), rel=1e-3)
        theirs.reset()


def test_returns_of_an_episode_are_discounted_and_begin_anew(example, monkeypatch):
    ppo = example("cleanrl_ppo")
    envs = ppo.Normalised(gym.make_vec("MaskWorld-v1", num_envs=2, episode_length=2))
    seen = []
    monkeypatch.setattr(envs._returns, "add", lambda rows: seen.append(rows.copy()))
    rewards = []
    step = envs.envs.step
    monkeypatch.setattr(envs.envs, "step", lambda a: rewards.append(step(a)) or rewards[-1])
    envs.reset(seed=0)
    torch.manual_seed(0)
    for _ in range(4):
        envs.step(torch.rand(2, 4_096) - 0.5)
    gained = [one[1] for one in rewards]
    expected = [gained[0], ppo.GAMMA * gained[0] + gained[1]]
    expected += [gained[2], ppo.GAMMA * gained[2] + gained[3]]
    for found, right in zip(seen, expected, strict=True):
        np.testing.assert_allclose(found[:, 0], right, rtol=1e-5)


@pytest.mark.parametrize("world", ["MaskWorld-v1", "ShiftWorld-v1"])
def test_at_least_half_of_the_normalised_rewards_lie_within_the_clip(example, world):
    ppo = example("cleanrl_ppo")
    envs = ppo.Normalised(gym.make_vec(world, num_envs=8))
    envs.reset(seed=0)
    torch.manual_seed(0)
    agent = ppo.Agent(1, envs.envs.single_action_space.shape[0])
    with torch.no_grad():
        policy = agent.policy(torch.zeros(8, 1))
        rewards = torch.stack([envs.step(policy.sample())[1] for _ in range(8)])
    assert (rewards.abs() < ppo.BOUND).float().mean() >= 0.5


def test_sac_samples_within_the_box_with_the_density_of_a_squashed_gaussian(example):
    sac = example("cleanrl_sac")
    torch.manual_seed(0)
    policy = sac.Policy(2, 1)
    observations = torch.randn(1, 2).expand(4, 2)
    actions, log_prob = policy.sample(observations)
    assert (actions.abs() < 1).all()
    mean, log_std = policy(observations)
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()),
        [torch.distributions.TanhTransform(cache_size=1)],
    )
    torch.testing.assert_close(log_prob, squashed.log_prob(actions), atol=1e-3, rtol=1e-3)


def test_sac_s_memory_gives_back_whole_transitions(example):
    sac = example("cleanrl_sac")
    memory = sac.Memory(6, observed=2, acted=3)
    for start in (0, 2, 4):
        number = torch.arange(start, start + 2.0)[:, None]
        memory.add(number.expand(2, 2), number.expand(2, 3), number, number.expand(2, 2), number)
    batch = memory.sample()
    assert [column.shape[1] for column in batch] == [2, 3, 1, 2, 1]
    assert all((column == batch[2]).all() for column in batch)
    assert set(batch[2].unique().tolist()) == {0, 1, 2, 3, 4, 5}
