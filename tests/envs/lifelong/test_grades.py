"""What a step came to is computed when somebody looks, and is the same whenever that is."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.envs.lifelong.batch import Batch
from editgym.envs.lifelong.episode import LifelongOutcome
from editgym.envs.lifelong.updates import DIRECTIONS, site_edits
from editgym.envs.metering import count_reward_calls
from editgym.weights import Shift

ARGUMENTS = {
    "split": "test",
    "edits_per_step": 2,
    "horizon": 4,
    "sites": ["model.layers.[45].mlp.down_proj"],
    "step_size": 6e-3,
}


@pytest.fixture
def make_env():
    """`make_env(**arguments)`: an unwrapped environment on factlm, just reset."""

    def make(**arguments):
        env = gym.make("editgym:LifelongLLMEdit-v1", **ARGUMENTS | arguments).unwrapped
        env.reset(seed=0)
        return env

    return make


@pytest.fixture
def graded(monkeypatch):
    """How many batches have been graded so far, as a list's length."""
    calls, grade = [], Batch.graded
    monkeypatch.setattr(Batch, "graded", lambda batch: calls.append(batch) or grade(batch))
    return calls


def edits(process, strength):
    """UltraEdit's update, stretched."""
    coefficients = torch.full((len(process.sites), DIRECTIONS), 0.5 * strength)
    return site_edits(process.sites, Shift(), process.stretched(coefficients))


def test_nobody_looks_and_nothing_is_computed(make_env, graded):
    env = make_env()
    for step in range(4):
        env.process.advance(edits(env.process, step))
    assert graded == []
    assert env.episode.rewards == [0.0] * 4
    assert graded == []


@pytest.mark.parametrize("seen", [(), (2,), (0, 1, 2, 3)])
def test_whoever_looks_later_sees_what_was_there_then(make_env, graded, seen):
    at_once, later = make_env(), make_env()
    expected = []
    for step in range(4):
        outcome = at_once.process.advance(edits(at_once.process, step))
        expected.append((outcome.answered, outcome.metrics))
    del graded[:]
    outcomes = []
    for step in range(4):
        outcomes.append(later.process.advance(edits(later.process, step)))
        if step in seen:
            assert outcomes[-1].metrics == expected[step][1]
    for outcome, (answered, metrics) in zip(outcomes, expected, strict=True):
        assert torch.equal(outcome.answered, answered)
        assert outcome.metrics == metrics
    assert later.episode.infos == at_once.episode.infos
    assert len({frozenset(metrics.items()) for _, metrics in expected}) > 1, "all steps are alike"
    assert len(graded) == 4, "each step is computed once"


def test_the_latest_step_is_looked_at_as_it_was_though_the_model_has_changed_since(make_env):
    first, second = make_env(), make_env()
    outcomes = [env.process.advance(edits(env.process, 0)) for env in (first, second)]
    expected = outcomes[0].metrics
    second.network.apply(*edits(second.process, 3))
    assert outcomes[1].metrics == expected


def test_a_step_of_the_environment_looks_at_once_and_once(make_env, graded):
    env = make_env()
    env.step(env.training_free_action())
    assert len(graded) == 1
    assert env.episode.infos[0]["edit_step"] == 1
    assert len(graded) == 1


def test_a_step_that_is_taken_back_is_graded_when_it_is_made_again(make_env, monkeypatch):
    whole, broken = make_env(), make_env()
    for env in (whole, broken):
        env.process.advance(edits(env.process, 3))

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LifelongOutcome, "kept", interrupted)
        with pytest.raises(KeyboardInterrupt):
            broken.process.advance(edits(broken.process, 3))
    assert broken.episode.info(0) == whole.episode.info(0)
    for env in (whole, broken):
        env.process.advance(edits(env.process, 3))
    assert broken.episode.info(1) == whole.episode.info(1)


@pytest.mark.parametrize("split", ["policy", "test"])
def test_a_step_counts_once_however_often_it_is_looked_at(make_env, split):
    env = make_env(split=split, back_depth=0)
    with count_reward_calls() as meter:
        env.process.advance(edits(env.process, 1), rewarded=False)
        assert meter.calls == 0, "nobody looks"
        env.step(env.training_free_action())
        assert meter.calls == 1
        assert len({len(env.episode.infos) for _ in range(2)}) == 1
        assert meter.calls == 2, "the first step was looked at, too"


def test_whoever_has_asked_for_rewards_of_a_step_sees_what_it_came_to(make_env):
    env = make_env(split="policy", back_depth=0)
    actions = np.stack([env.training_free_action()] * 3)
    with count_reward_calls() as meter:
        env.candidate_rewards(actions)
        env.follow(actions[0])
    assert meter.calls == 3


def test_what_nobody_looked_at_is_gone_with_the_episode(make_env):
    env = make_env()
    unseen, seen = (env.process.advance(edits(env.process, step)) for step in range(2))
    metrics = seen.metrics
    env.reset()
    assert seen.metrics == metrics
    with pytest.raises(RuntimeError, match=r"step 1 came to was not looked at before the next res"):
        unseen.metrics  # noqa: B018 - looking is what fails


def test_a_checkpoint_does_not_look_and_who_goes_on_from_it_can(make_env, graded, tmp_path):
    arguments = {"journal_folder": str(tmp_path / "steps")}
    env = make_env(**arguments)
    for step in range(2):
        env.process.advance(edits(env.process, step))
    expected_first = env.episode.info(0)
    looked = len(graded)
    env.process.advance(edits(env.process, 2))
    state = env.checkpoint()
    assert len(graded) == looked
    twin = gym.make("LifelongLLMEdit-v1", **ARGUMENTS | arguments).unwrapped
    twin.reset(options={"restore": state})
    assert twin.episode.info(0) == expected_first
    assert len(graded) == looked, "what was known is in the checkpoint"
    assert twin.episode.infos == env.episode.infos


def test_a_step_that_is_over_keeps_no_keys_and_gradients(make_env):
    process = make_env().process
    batch = process.batch
    assert len(batch.directions) == len(batch.capture.keys)
    assert {"capture", "directions"} <= set(vars(batch))
    process.advance(edits(process, 0))
    assert not {"capture", "directions"} & set(vars(batch))
