"""Environments to learn in: streams of facts on open data."""

import gymnasium as gym

from agents.hypernetworks.stream import base_hashes, is_stream_of_facts, learning_stream
from editgym.envs.lifelong.process import LifelongProcess


def test_a_stream_of_facts_is_learned_from_on_open_data(stream_spec, tmp_path):
    assert is_stream_of_facts(gym.spec("LifelongLLMEdit-v0"))
    assert not is_stream_of_facts(gym.spec("ShiftWorld-v0"))
    spec = stream_spec(evaluation=True, journal_folder=str(tmp_path / "journal"))
    env, process = learning_stream(spec, {"horizon": 7, "back_depth": 3})
    assert isinstance(process, LifelongProcess)
    assert (process.settings.split, process.horizon, process.settings.reward.back_depth) == (
        "policy",
        7,
        3,
    )
    assert not (tmp_path / "journal").exists()
    env.close()


def test_the_networks_that_an_episode_may_be_about_are_all_named(stream_spec):
    env = gym.make("ShiftWorld-v0", networks=[0, 1], sites=["fc3"])
    expected = [network.base_hash for network in env.unwrapped.task.networks]
    assert base_hashes(env) == expected
    assert len(set(expected)) == 2
    assert base_hashes(gym.make("ShiftWorld-v0", sites=["fc3"])) == expected[:1]
    stream = gym.make(stream_spec())
    assert base_hashes(stream) == [stream.unwrapped.task.decoder.base_hash]
