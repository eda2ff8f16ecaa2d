"""What learns in ShiftWorld: rewards that rise, what that costs, and the edit of one episode."""

import gymnasium as gym
import pytest
import torch

from agents.hypernetworks.hiedit import HiEdit
from agents.hypernetworks.rledit import RLEdit
from agents.hypernetworks.stream import learning_stream
from agents.hypernetworks.worlds import WorldStream
from agents.protocol import Budget, Unsupported
from editgym.envs.metering import count_reward_calls


def world(**arguments):
    return gym.make("ShiftWorld-v0", **arguments)


def mean_reward(agent, spec, episodes=4):
    stream = WorldStream(gym.make(spec))
    rewards = []
    for seed in range(70, 70 + episodes):
        stream.reset(seed)
        agent.begin(stream)
        while not stream.over:
            with torch.no_grad():
                rewards.append(
                    float(stream.differentiable_step(agent.policy.updates(stream)).reward)
                )
    return sum(rewards) / len(rewards)


@pytest.mark.parametrize("arguments", [{}, {"sites": ["conv2", "fc2"], "episode_length": 2}])
def test_training_raises_the_reward_of_shift_world(arguments):
    spec = gym.make("ShiftWorld-v0", **arguments).spec
    means = []
    for sequences in (0, 30):
        agent = RLEdit(
            sequences=sequences, learning_rate=3e-3, step_learning_rate=0.1, linear_decay=False
        )
        with count_reward_calls() as meter:
            agent.learn(spec, Budget(), seed=0)
        assert meter.calls == 2 * sequences * arguments.get(
            "episode_length", 1
        )  # the gradient's, and the edit's
        means.append(mean_reward(agent, spec))
    assert means[1] > means[0] + 0.05, means


@pytest.mark.parametrize(
    ("agent", "per_episode"),
    [(RLEdit(), 4), (RLEdit(passes=2), 6), (HiEdit("straight_through", sites_per_step=1), 4)],
)
def test_gradients_of_the_reward_count_and_the_budget_covers_them(agent, per_episode):
    spec = world(rank="full", sites=["fc2", "fc3"], episode_length=2).spec
    with count_reward_calls() as meter:
        agent.learn(spec, Budget(reward_calls=2 * per_episode + 1), seed=0)
    assert meter.calls == 2 * per_episode
    with count_reward_calls() as meter:
        agent.edit(gym.make(spec))
    assert meter.calls == per_episode
    stream = WorldStream(gym.make(spec))
    stream.reset(0)
    with count_reward_calls() as meter:
        assert stream.capture is stream.capture
    assert meter.calls == 1


def test_an_edit_is_one_episode_of_the_environment_and_the_same_after_a_load(tmp_path):
    env = world(episode_length=2)
    agent = RLEdit(sequences=3)
    agent.learn(env.spec, Budget(reward_calls=5), seed=0)
    journal = agent.edit(env)
    assert journal.steps == 2
    assert journal.base_hash == env.unwrapped.network.base_hash
    agent.save(tmp_path)
    again = RLEdit.load(tmp_path).edit(world(episode_length=2))
    assert all(
        torch.equal(a.update.matrix(), b.update.matrix())
        for a, b in zip(journal, again, strict=True)
    )
    assert env.unwrapped.evaluate(journal).metrics


def test_hiedit_chooses_sites_on_shift_world():
    spec = gym.make("ShiftWorld-v0", sites=["conv2", "fc2", "fc3"]).spec
    agent = HiEdit("straight_through", sites_per_step=1, sequences=2)
    agent.learn(spec, Budget(), seed=0)
    env = gym.make(spec)
    agent.edit(env)
    moved = [
        not torch.equal(now, base)
        for now, base in zip(
            env.unwrapped.network.weights, env.unwrapped.network.base_weights, strict=True
        )
    ]
    assert sum(moved) == 1
    with pytest.raises(Unsupported, match='use gate="straight_through" on ShiftWorld'):
        HiEdit("sampled", sequences=1).learn(spec, Budget(), seed=0)


def test_two_looks_make_an_action_of_the_environments_rank():
    agent = RLEdit(sequences=1, passes=2)
    env = world()
    with pytest.raises(Unsupported, match="rank"):
        agent.learn(env.spec, Budget(), seed=0)
    full = world(rank="full", sites=["fc3"])
    agent = RLEdit(sequences=1, passes=2)
    agent.learn(full.spec, Budget(), seed=0)
    assert agent.edit(full).steps == 1


def test_mask_world_is_refused():
    env = gym.make("MaskWorld-v0")
    with pytest.raises(Unsupported, match="LifelongLLMEdit and ShiftWorld"):
        WorldStream(env)
    with pytest.raises(Unsupported, match="LifelongLLMEdit and ShiftWorld"):
        learning_stream(env.spec, {})
