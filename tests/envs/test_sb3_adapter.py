"""A Gymnasium vector environment as Stable-Baselines3 wants one."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence as equal
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from editgym.envs.sb3 import SB3VectorEnv, monitored


@pytest.fixture
def adapted(world):
    """`adapted(k, **arguments)`."""
    return lambda k=3, **arguments: SB3VectorEnv(
        gym.make_vec(f"editgym:{world}", num_envs=k, **arguments)
    )


def run(env, drawn, seed=5):
    env.seed(seed)
    return [env.reset(), *(env.step(action) for action in drawn)]


def test_adapter_does_what_stable_baselines_own_vectorisation_does(adapted, world, actions):
    arguments = {"episode_length": 2, "networks": [0, 1], "goals": [7, 2]}
    ours = adapted(**arguments)
    theirs = DummyVecEnv([lambda: gym.make(f"editgym:{world}", **arguments)] * 3)
    drawn = actions(gym.spaces.Box(-1, 1, (3, *ours.action_space.shape)), 5)
    (first, *steps), (their_first, *their_steps) = run(ours, drawn), run(theirs, drawn)
    np.testing.assert_array_equal(first, their_first)
    assert ours.reset_infos[0].keys() == theirs.reset_infos[0].keys()
    for (observation, rewards, dones, infos), expected in zip(steps, their_steps, strict=True):
        np.testing.assert_allclose(observation, expected[0], atol=1e-5)
        np.testing.assert_allclose(rewards, expected[1], atol=1e-5)
        assert rewards.dtype == expected[1].dtype == np.float32
        assert dones.dtype == bool
        np.testing.assert_array_equal(dones, expected[2])
        for info, their_info in zip(infos, expected[3], strict=True):
            assert info.keys() == their_info.keys()
            if "terminal_observation" in their_info:
                np.testing.assert_allclose(
                    info["terminal_observation"], their_info["terminal_observation"], atol=1e-5
                )
            assert info["TimeLimit.truncated"] is their_info["TimeLimit.truncated"] is False
            assert all(
                isinstance(info[key], float)
                for key in info.keys() - {"terminal_observation", "TimeLimit.truncated"}
            )
            assert info["utility"] == pytest.approx(their_info["utility"], abs=1e-5)
        assert ours.reset_infos == theirs.reset_infos


class Counter(gym.Env):
    """It counts its steps, `most` of them in the first episode and one more in every other."""

    observation_space = gym.spaces.Box(-100, 100, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, most):
        self.most, self.episodes = most, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.episodes = 0, self.episodes + 1
        begun = {"episodes": self.episodes, "nested": {"most": self.most}}
        return np.zeros(1, np.float32), begun | ({"late": 1.0} if self.episodes > 1 else {})

    def step(self, action):
        self.count += 1
        over, told = self.count >= self.most, {"count": self.count}
        self.most += over
        if self.count == 2:
            told |= {"nested": {"two": True}, "vector": np.arange(3), "text": "two"}
        return np.full(1, self.count, np.float32), 1.0, over and self.most % 2 == 0, over, told


def test_any_vector_environment_is_as_in_stable_baselines_own():
    makers = [lambda: Counter(1), lambda: Counter(2), lambda: Counter(4)]
    vector = gym.vector.SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    ours, theirs = SB3VectorEnv(vector), DummyVecEnv(makers)
    for env in (ours, theirs):
        env.reset()
    assert equal(ours.reset_infos, theirs.reset_infos)
    for _ in range(8):
        mine, other = (env.step(np.zeros((3, 1), np.float32)) for env in (ours, theirs))
        assert all(np.array_equal(a, b) for a, b in zip(mine[:3], other[:3], strict=True))
        assert equal(mine[3], other[3])
        assert equal(ours.reset_infos, theirs.reset_infos)


def test_statistics_of_an_episode_are_told_where_it_ended(adapted, actions):
    plain = adapted(2, episode_length=2)
    counted = SB3VectorEnv(RecordEpisodeStatistics(plain.env))
    counted.seed(0)
    counted.reset()
    total = 0
    for step in range(4):
        _, rewards, dones, infos = counted.step(actions(plain.action_space, 2, seed=step))
        total = rewards + (0 if step % 2 == 0 else total)
        assert dones.all() == (step % 2 == 1)
        assert all(("episode" in info) == dones.all() for info in infos)
        if dones.all():
            assert [info["episode"]["l"] for info in infos] == [2, 2]
            assert [info["episode"]["r"] for info in infos] == pytest.approx(total, abs=1e-6)
        assert all("episode" not in info for info in counted.reset_infos)


def test_seed_is_used_once(adapted, actions):
    env = adapted(2)
    drawn = actions(gym.spaces.Box(-1, 1, (2, *env.action_space.shape)))
    first = run(env, drawn)[1][1]
    env.reset()
    assert not np.array_equal(env.step(drawn[0])[1], first)
    assert np.array_equal(run(env, drawn)[1][1], first)


def test_options_reach_the_environment(adapted):
    env = adapted(2, goals=[7, 2, 3])
    env.set_options({"goal": 2})
    env.reset()
    assert [info["goal"] for info in env.reset_infos] == [2, 2]
    env.seed(0)
    goals = set()
    for _ in range(10):
        env.reset()
        goals |= {info["goal"] for info in env.reset_infos}
    assert goals == {0, 1, 2}, "options are used once"


def test_options_that_differ_from_slot_to_slot_are_refused(adapted):
    env = adapted(2, goals=[7, 2, 3])
    env.reset()
    env.set_options([{"goal": 2}, {"goal": 2}])
    env.reset()
    assert [info["goal"] for info in env.reset_infos] == [2, 2]
    for options in ([{"goal": 1}, {"goal": 2}], [{}, {"goal": 1}]):
        env.set_options(options)
        with pytest.raises(
            ValueError, match=r"must be equal; got .* and \{'goal': [12]\} for slot"
        ):
            env.reset()


def test_attributes_and_methods_are_those_of_the_wrapped_environment(adapted):
    env = adapted(2, render_mode="rgb_array")
    assert env.get_attr("render_mode") == ["rgb_array", "rgb_array"]
    assert env.render_mode == "rgb_array"
    env.set_attr("render_mode", "ansi")
    assert env.get_attr("render_mode", [0]) == ["ansi"]
    env.set_attr("render_mode", "rgb_array")
    env.reset()
    assert len(env.env_method("journal", 1)) == 2
    assert env.env_is_wrapped(gym.Wrapper) == [False, False]
    assert [frame.shape[-1] for frame in env.get_images()] == [3, 3]
    env.close()


def test_an_attribute_is_set_where_it_is_and_no_other_is_made(world):
    inner = gym.make_vec(f"editgym:{world}", num_envs=2)
    env = SB3VectorEnv(gym.wrappers.vector.RecordEpisodeStatistics(inner))
    env.set_attr("render_mode", "ansi")
    assert inner.render_mode == "ansi"
    with pytest.raises(AttributeError, match="no attribute 'alpha' to set: arguments of an env"):
        env.set_attr("alpha", 100.0)
    assert not hasattr(env.env, "alpha")


def test_a_single_environment_is_no_batch(world):
    with pytest.raises(ValueError, match=r"env must be what gym.make_vec returns, got .*single"):
        SB3VectorEnv(gym.make(f"editgym:{world}"))


def test_environment_that_resets_otherwise_is_refused(world):
    env = gym.make_vec(f"editgym:{world}", num_envs=2, vectorization_mode="sync")
    assert env.metadata["autoreset_mode"] is not AutoresetMode.SAME_STEP
    with pytest.raises(ValueError, match=r"must reset in AutoresetMode\.SAME_STEP"):
        SB3VectorEnv(env)


def test_monitor_reports_returns_and_lengths(world, actions):
    env = monitored(gym.make_vec(f"editgym:{world}", num_envs=2, episode_length=2))
    assert isinstance(env, VecMonitor)
    env.reset()
    rewards, infos = [], []
    for action in actions(gym.spaces.Box(-1, 1, (2, *env.action_space.shape)), 2):
        _, reward, _, infos = env.step(action)
        rewards.append(reward)
    assert [info["episode"]["l"] for info in infos] == [2, 2]
    np.testing.assert_allclose(
        [info["episode"]["r"] for info in infos], np.sum(rewards, axis=0), rtol=1e-5
    )


@pytest.mark.parametrize("vector", [True, False])
def test_ppo_trains(world, vector):
    env = (
        monitored(gym.make_vec(f"editgym:{world}", num_envs=4, episode_length=2))
        if vector
        else make_vec_env(f"editgym:{world}", n_envs=4, env_kwargs={"episode_length": 2})
    )
    model = PPO(
        "MlpPolicy",
        env,
        n_steps=4,
        batch_size=8,
        n_epochs=1,
        seed=0,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    )
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(32)
    assert model.num_timesteps == 32
    assert any(
        not after.equal(old) for after, old in zip(model.policy.parameters(), before, strict=True)
    )
    assert len(model.ep_info_buffer) == 16
