"""An editor's steps belong to the episode that the environment shows."""

import gymnasium as gym
import numpy as np
import pytest

from agents.catalogue import make_agent

EDITORS = {
    "memit_seq": {"tokens": 600, "steps": 4, "learning_rate": 0.5, "max_norm": 5.0},
    "ultraedit": {"step_size": 1e-2},
}
pytestmark = pytest.mark.parametrize("name", EDITORS)


def answered_exactly(env):
    """Right after every step, the share of its prompts that are decoded as wanted, by a replay."""
    inner, size = env.unwrapped, env.unwrapped.process.settings.edits_per_step
    decoder, shares = inner.task.decoder.fresh(), []
    for step in range(inner.episode_length):
        decoder.apply(*(entry for entry in inner.journal if entry.step == step))
        asked = inner.process.stream.requests[step * size : (step + 1) * size]
        batch = inner.task.batch([(request.prompt, request.target) for request in asked])
        right = decoder.logits(batch).argmax(-1) == batch.labels
        shares.append(float(batch.all_of(right).float().mean()))
    return shares


def seen(env):
    return env.unwrapped.episode.rewards, env.unwrapped.episode.infos, env.render()


def test_render_and_infos_have_every_step_of_an_editor(name, stream_env):
    env = stream_env(render_mode="ansi", split="policy", step_size=3e-2)
    make_agent(name, **EDITORS[name]).edit(env)
    rewards, infos, text = seen(env)
    assert "step 3 of 3" in text
    assert len(text.strip().split("\n")) == 2 + 3
    assert [f"{reward:+.3f}" in text for reward in rewards] == [True] * 3
    assert [info["edits_done"] for info in infos] == [2, 4, 6]
    assert [info["reliability"] for info in infos] == answered_exactly(env)
    assert all(reward < 0 for reward in rewards), "the stream has rewards"
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.zeros(env.action_space.shape, np.float32))
    env.reset()
    assert seen(env)[:2] == ([], []), "a new episode has no step"


def test_an_edit_that_was_interrupted_shows_its_first_steps_too(
    name, stream_spec, interrupted_edit, tmp_path
):
    spec = stream_spec(split="validation")

    def make(folder):
        env = gym.make(spec, render_mode="ansi", journal_folder=str(tmp_path / folder))
        env.reset(seed=0)
        return env

    agent = make_agent(name, **EDITORS[name])
    whole = make("whole")
    agent.edit(whole, tmp_path / "whole state")
    env = make("parts")
    interrupted_edit(agent, env, tmp_path / "state", at=2)
    assert seen(env)[1] == seen(whole)[1][:2]
    again = gym.make(spec, render_mode="ansi", journal_folder=str(tmp_path / "parts"))
    agent.edit(again, tmp_path / "state")
    assert seen(again) == seen(whole)
