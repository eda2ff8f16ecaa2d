"""A reward that sees the whole stream: batches that are drawn of all earlier ones."""

import contextlib

import gymnasium as gym
import numpy as np
import pytest
import torch

from editgym.envs.lifelong.reward import LookBack, RewardWeights
from editgym.tasks.knowledge.task import Stream
from editgym.weights import LowRankFactors

SITES = ["model.layers.[23].mlp.down_proj"]
SIZE, STEPS = 2, 6


@pytest.fixture
def make(tiny_lm):
    """`make(**arguments)`: an unwrapped environment, just reset."""

    def made(**arguments):
        own = {"edits_per_step": SIZE, "horizon": STEPS, "sites": SITES, "step_size": 1e-2}
        own |= {"look_back": "uniform", "back_depth": 2}
        env = gym.make("LifelongLLMEdit-v1", model=tiny_lm, **own | arguments).unwrapped
        env.reset(seed=0)
        return env

    return made


def looking(process, seed=0, **weights):
    look = LookBack(process.task, RewardWeights(**{"look_back": "uniform"} | weights))
    look.begin(process.stream, SIZE, seed)
    return look


def updates(process, size=0.05):
    generator = torch.Generator().manual_seed(0)
    return [
        LowRankFactors(
            size * torch.randn(site.shape[0], 2, generator=generator),
            torch.randn(2, site.shape[1], generator=generator),
        )
        for site in process.sites
    ]


def test_a_step_costs_its_batch_and_what_was_drawn_by_hand(make):
    process = make().process
    task, look = process.task, looking(process, back_depth=2, locality_weight=0.5)
    process.decoder.apply()
    pool = look._prompts.pool(3)
    assert len(pool) == 3 * SIZE
    own = updates(process)
    for step in (0, 1, 4):
        look.push(process.decoder, step)
        costs = look.costs(process.decoder, look.pieces(process.decoder), own)
        drawn = [one.places[0] // SIZE for one in look._drawn]
        assert len(drawn) == len(set(drawn)) == min(step, 2)
        assert all(one < step for one in drawn)

        def surprise(step):
            asked = look._prompts.steps[step][0]
            return float(process.decoder.losses(task.batch(asked), own).mean())

        kept = task.unchanged(pool)
        before = task.reference(kept)
        now = process.decoder.logits(kept, own).log_softmax(-1)
        kl = float(kept.means((before.exp() * (before - now)).sum(-1)).mean())
        expected = surprise(step) + (step + 1) * 0.5 * kl
        if drawn:
            expected += step / len(drawn) * sum(map(surprise, drawn))
        assert float(costs.total.detach()) == pytest.approx(expected, rel=1e-4)


def test_every_earlier_batch_weighs_one_on_average(make):
    process = make().process
    total = np.zeros(5)
    for seed in range(400):
        look = looking(process, seed, back_depth=2, locality_weight=0)
        look._batch = lambda decoder, step, count, local: step  # only which ones are looked at
        look.push(process.decoder, 5)
        (newest, first, _), *drawn = look._weighed()
        assert (newest, first) == (5, 1.0)
        for step, weight, local in drawn:
            assert local == 0
            total[step] += weight
    assert total / 400 == pytest.approx(np.ones(5), abs=0.25)
    assert (total / 400).sum() == pytest.approx(5)


@pytest.mark.parametrize("look_back", ["recent", "uniform"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_look_that_is_interrupted_is_taken_anew(make, look_back, at, monkeypatch):
    process = make().process
    whole, broken = (looking(process, back_depth=2, look_back=look_back) for _ in range(2))
    own = updates(process)
    for step in range(3):
        whole.push(process.decoder, step)
        with monkeypatch.context() as patch:
            calls, batch = [], type(broken)._rephrases

            def interrupted(*args, calls=calls, batch=batch):
                calls.append(args)
                if len(calls) == at:
                    raise KeyboardInterrupt
                return batch(*args)

            patch.setattr(type(broken), "_rephrases", interrupted)
            with contextlib.suppress(KeyboardInterrupt):
                broken.push(process.decoder, step)
        broken.push(process.decoder, step)
        ours, theirs = (
            float(one.costs(process.decoder, one.pieces(process.decoder), own).total.detach())
            for one in (broken, whole)
        )
        assert ours == theirs


def test_statistics_count_a_batch_once_when_its_step_is_made_again(make, monkeypatch):
    whole, broken = make(), make()
    action = whole.training_free_action()
    whole.step(action)
    with monkeypatch.context() as patch:
        patch.setattr(type(broken.process.batch), "_directions", interrupt)
        with pytest.raises(KeyboardInterrupt):
            broken.step(action)
    found, wanted = (one.process.batch.directions for one in (broken, whole))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours.matrix(), theirs.matrix())


def interrupt(*_):
    raise KeyboardInterrupt


def test_the_pool_is_of_the_whole_stream_and_the_same_at_every_step(make):
    process = make().process
    look = looking(process, back_depth=2)
    look.push(process.decoder, 0)
    pool, texts = look._pool, look._prompts.pool(3)
    local = [prompt for _, own in look._prompts.steps for prompt in own]
    asked = {q.prompt for r in process.stream.requests for q in r.locality}
    assert set(texts) <= asked
    assert not set(texts) <= set(local[: 3 * SIZE])
    look.push(process.decoder, 3)
    assert look._pool is pool


def test_all_ways_to_the_reward_agree(make):
    env = make(locality_weight=0.6)
    process = env.process
    for step in range(STEPS):
        own = updates(process, 0.02 * (step + 1))
        stacked = [LowRankFactors(u.a[None].repeat(2, 1, 1), u.b[None], u.scale) for u in own]
        candidates = process.candidate_rewards(
            [LowRankFactors(u.a, u.b.repeat(2, 1, 1), u.scale) for u in stacked]
        )
        if step % 2:
            leaves = [LowRankFactors(u.a.requires_grad_(), u.b, u.scale) for u in own]
            outcome = process.differentiable_step(leaves)
            outcome.reward.backward()
            assert all(leaf.a.grad is not None for leaf in leaves)
        else:
            outcome = process.step(own)
        assert candidates.tolist() == pytest.approx([float(outcome.reward)] * 2, rel=1e-4)
        assert 0 <= outcome.metrics["locality"] <= 1


def test_the_draws_are_the_seeds_and_the_whole_stream_is_seen_after_an_interruption(make):
    first, second = make(), make()
    rewards = [
        [float(env.step(env.training_free_action())[1]) for _ in range(STEPS)]
        for env in (first, second)
    ]
    assert rewards[0] == rewards[1]
    assert rewards[0] != [
        float(env.step(env.training_free_action())[1])
        for env in [make(look_back="recent")]
        for _ in range(STEPS)
    ]
    look = looking(first.process)
    look.push(first.process.decoder, 5)  # as an environment does that goes on from a checkpoint
    assert len(look._drawn) == 5


def test_overwritten_requests_are_not_looked_at(make):
    process = make().process
    requests = list(process.stream.requests)
    requests[10] = type(requests[0])(requests[0].subject, requests[0].prompt, "another")
    look = looking(process, back_depth=5)
    look.begin(Stream(tuple(requests)), SIZE, 0)
    look.push(process.decoder, 5)
    assert 0 not in [place for one in look._drawn for place in one.places]
    look.push(process.decoder, 4)
    assert 0 in [place for one in look._drawn for place in one.places]


def test_a_look_at_the_whole_stream_sees_an_earlier_batch_at_least(make):
    with pytest.raises(ValueError, match='back_depth must be at least 1 with look_back="uniform"'):
        make(back_depth=0)


def test_the_way_to_look_back_is_one_of_two(make):
    with pytest.raises(ValueError, match="look_back must be one of 'recent', 'uniform'"):
        make(look_back="all")
