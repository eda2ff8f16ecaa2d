"""Rehearsal: which earlier requests join a step, what of them is seen, and what stays of the new
ones."""

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from editgym.data.facts import EditRequest
from editgym.envs.lifelong.rehearsal import drawn
from editgym.weights import DenseUpdate, LowRankFactors, Shift, SiteEdit
from editgym.weights.closed_form import UltraEdit, principal_directions

SITES = ["model.layers.[23].mlp.down_proj"]
STREAM = {"edits_per_step": 3, "horizon": 4, "sites": SITES, "step_size": 1e-2}


@pytest.fixture
def make_env(tiny_lm):
    """`make_env(**arguments)`: an unwrapped environment on the tiny model, just reset."""

    def make(seed=0, version="v1", **arguments):
        made = {"model": tiny_lm} | STREAM | arguments
        env = gym.make(f"editgym:LifelongLLMEdit-{version}", **made).unwrapped
        env.reset(seed=seed)
        return env

    return make


def updates_for(process, seed=0, size=0.05):
    generator = torch.Generator().manual_seed(seed)
    return [
        LowRankFactors(
            size * torch.randn(site.shape[0], 2, generator=generator),
            torch.randn(2, site.shape[1], generator=generator),
        )
        for site in process.sites
    ]


def edited(make_env, steps, **arguments):
    """The process after the same few edits, whatever is rehearsed."""
    process = make_env(**arguments).process
    for step in range(steps):
        process.step(updates_for(process, step))
    return process


def site_edits(process, seed):
    """Entries of the same few edits."""
    updates = updates_for(process, seed)
    return [
        SiteEdit(site.name, Shift(), update)
        for site, update in zip(process.sites, updates, strict=True)
    ]


def close(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# --- what is drawn --------------------------------------------------------------------------------


def rehearsed(process):
    """Of every step of the stream, the places of what it rehearses."""
    places = []
    while not process.over:
        new = len(process.requests)
        assert process.batch.places[:new] == tuple(
            range(process.step_index * 3, process.step_index * 3 + new)
        )
        places.append(process.batch.places[new:])
        process.advance([])
    return places


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_earlier_requests_are_drawn_anew_at_every_step_and_never_twice(make_env, version):
    process = make_env(rehearse=4, version=version, horizon=6).process
    found = rehearsed(process)
    assert [len(own) for own in found] == [0, 3, 4, 4, 4, 4]
    for step, own in enumerate(found):
        assert len(set(own)) == len(own)
        assert all(place < 3 * step for place in own)
    assert len({frozenset(own) for own in found[2:]}) == 4
    process.reset(process._seed)
    assert rehearsed(process) == found, "the seed decides"
    process.reset(process._seed + 1)
    assert rehearsed(process) != found


def test_every_earlier_request_is_as_likely(make_env):
    process = make_env(rehearse=2).process
    new, earlier = process.settings.places(3, process.stream)
    assert (list(new), list(earlier)) == ([9, 10, 11], list(range(9)))
    times = np.zeros(9)
    for seed in range(3_000):
        times[drawn(earlier, 2, seed, step=3)] += 1
    assert times == pytest.approx(3_000 * 2 / 9, rel=0.12)


def test_of_rehearsed_requests_only_subject_prompt_and_target_are_seen(make_env):
    process = edited(make_env, 2, rehearse=4)
    for place, request in zip(process.batch.places, process.batch.taught, strict=True):
        whole = process.stream.requests[place]
        assert whole.rephrases
        if place < 6:
            assert request == EditRequest(whole.subject, whole.prompt, whole.target)
        else:
            assert request is whole


def test_a_checkpoint_goes_on_with_the_same_draws_and_no_others(make_env, tmp_path):
    arguments = {"rehearse": 4, "split": "test", "journal_folder": str(tmp_path / "steps")}
    env = make_env(**arguments)
    for _ in range(2):
        env.step(env.training_free_action())
    state = env.checkpoint()
    whole = make_env(rehearse=4, split="test")
    for _ in range(2):
        whole.step(whole.training_free_action())
    other = gym.make("LifelongLLMEdit-v1", **env.spec.kwargs | {"rehearse": 3}).unwrapped
    with pytest.raises(
        ValueError, match="rehearse_by, unique_subjects, order, stream and basis, asked"
    ):
        other.reset(options={"restore": state})
    again = gym.make(env.spec).unwrapped
    again.reset(options={"restore": state})
    assert again.process.batch.places == whole.process.batch.places
    for _ in range(2):
        again.step(again.training_free_action())
        whole.step(whole.training_free_action())
    assert all(map(torch.equal, again.network.weights, whole.network.weights))


# --- by loss --------------------------------------------------------------------------------------


def lost(process, places):
    """The loss of each earlier request, asked by itself."""
    losses = []
    for place in places:
        request = process.stream.requests[place]
        text = process.task.batch([(request.prompt, request.target)])
        costs = F.cross_entropy(process.decoder.logits(text), text.labels, reduction="none")
        losses.append(float(text.mean_costs(costs)))
    return losses


@pytest.mark.parametrize("end_weight", [1.0, 0.5])
def test_those_that_the_model_has_lost_most_are_taught_again(make_env, end_weight, monkeypatch):
    monkeypatch.setattr("editgym.envs.lifelong.rehearsal._TOKENS_AT_ONCE", 40)  # in pieces
    process = make_env(rehearse=4, rehearse_by="loss", end_weight=end_weight).process
    taken = []
    for step in range(4):
        earlier = range(3 * step)
        own = process.batch.places[3:]
        losses = lost(process, earlier)
        assert len(own) == min(4, len(earlier))
        if step > 1:
            worst = sorted(earlier, key=lambda place, of=losses: -of[place])[:4]
            assert list(own) == worst
        taken.append(own)
        process.step(updates_for(process, step, size=0.5))
    assert taken[2] != (0, 1, 2, 3)


def test_what_was_lost_is_chosen_again_after_an_interruption(make_env, tmp_path):
    arguments = {"rehearse": 3, "rehearse_by": "loss", "split": "test", "horizon": 5}
    env = make_env(**arguments, journal_folder=str(tmp_path / "steps"))
    whole = make_env(**arguments)
    for one in (env, whole):
        for step in range(3):
            one.process.advance(site_edits(one.process, step))
    state = env.checkpoint()
    env.process.advance(site_edits(env.process, 3))  # journalled after the state was saved
    again = gym.make(env.spec).unwrapped
    again.reset(options={"restore": state})
    assert again.process.batch.places == whole.process.batch.places
    assert len(again.network.journal) == len(whole.network.journal)


def test_answers_of_a_collapsed_model_are_lost_altogether(make_env):
    process = make_env(rehearse=2, rehearse_by="loss").process
    process.advance([])
    ruined = [
        SiteEdit(site.name, Shift(), DenseUpdate(torch.full(site.shape, 1e38)))
        for site in process.sites
    ]
    process.advance(ruined)
    assert not any(map(math.isfinite, lost(process, range(6))))
    assert process.batch.places[3:] == (0, 1)


def test_grades_do_not_depend_on_what_is_rehearsed(make_env):
    process = make_env(rehearse=4, rehearse_by="loss").process
    outcomes = [process.step(updates_for(process, step)) for step in range(4)]
    again = make_env(rehearse=4, rehearse_by="loss").process
    at_once = [again.step(updates_for(again, step)).metrics for step in range(4)]
    assert [one.metrics for one in outcomes] == at_once


def test_it_is_by_draw_or_by_loss(make_env):
    with pytest.raises(ValueError, match=r"^rehearse_by must be one of 'draw', 'loss', got 'age'"):
        make_env(rehearse=2, rehearse_by="age")


@pytest.mark.parametrize("value", [-1, 1.0, "3", True, None])
def test_how_many_is_a_whole_number(make_env, value):
    with pytest.raises(ValueError, match=rf"^rehearse must be .*got {value!r}$"):
        make_env(rehearse=value)


# --- what is captured -----------------------------------------------------------------------------


@pytest.mark.parametrize("end_weight", [1.0, 0.5, 0.0])
def test_new_requests_give_what_they_give_without_rehearsal(make_env, end_weight):
    alone = edited(make_env, 2, end_weight=end_weight)
    process = edited(make_env, 2, end_weight=end_weight, rehearse=5)
    updates = updates_for(process, 7)
    for mine, theirs in (
        (process.capture, alone.capture),
        (process.captured_after(updates), alone.captured_after(updates)),
    ):
        close(mine.new.keys, theirs.keys)
        close(mine.new.gradients, theirs.gradients)
        assert mine.new.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert theirs.new is theirs
        for keys, gradients, own in zip(mine.keys, mine.gradients, theirs.keys, strict=True):
            assert len(keys) == len(gradients) > len(own)


def test_rehearsed_requests_count_as_much_as_new_ones(make_env):
    process = edited(make_env, 2, rehearse=5)
    task, capture = process.task, process.capture
    asked = [(request.prompt, request.target) for request in process.batch.rehearsed]
    alone = process.decoder.capture(task.batch(asked))
    new = len(capture.new.keys[0])
    close([keys[new:] for keys in capture.keys], alone.keys)
    close([own[new:] for own in capture.gradients], [own * 5 / 3 for own in alone.gradients])
    assert capture.loss == pytest.approx((3 * capture.new.loss + 5 * alone.loss) / 8, rel=1e-5)


def test_the_training_free_update_is_of_both_by_statistics_of_the_new(make_env):
    process = make_env(rehearse=4).process
    editors = [UltraEdit(site.shape) for site in process.sites]
    for step in range(3):
        capture, expected, of_new = process.capture, [], []
        for editor, site in zip(editors, range(len(editors)), strict=True):
            editor.observe(capture.new.keys[site], capture.new.gradients[site])
            expected.append(
                editor.update(capture.keys[site], capture.gradients[site], 1e-2, observe=False)
            )
            new = capture.new
            of_new.append(editor.update(new.keys[site], new.gradients[site], 1e-2, observe=False))
        for ours, theirs in (
            (process.directions, expected),
            (process.batch.new_directions, of_new),
        ):
            close(
                [one.a.norm(dim=0) for one in ours],
                [principal_directions(one).a.norm(dim=0) for one in theirs],
            )
            for one, other in zip(ours, theirs, strict=True):
                matrix = other.matrix()
                torch.testing.assert_close(
                    one.matrix(), matrix, rtol=1e-3, atol=1e-5 * float(matrix.norm())
                )
        process.step(updates_for(process, step))


def test_by_default_nothing_is_rehearsed_and_nothing_is_computed_for_it(make_env):
    process = edited(make_env, 2)
    batch = process.batch
    assert batch.taught == batch.requests == process.stream.requests[6:9]
    assert batch.new_prompts is batch.prompts
    assert batch.capture.new is batch.capture
    assert batch.new_directions is batch.directions


# --- what stays of the new requests ---------------------------------------------------------------


def test_observation_reward_and_info_are_of_the_new_requests(make_env):
    envs = make_env(action="factors"), make_env(action="factors", rehearse=5)
    envs[0].action_space.seed(0)
    for action in [envs[0].action_space.sample() for _ in range(4)]:
        alone, both = (env.step(0.02 * action) for env in envs)
        assert both[0] == pytest.approx(alone[0], rel=1e-3, abs=1e-4)
        assert both[1] == pytest.approx(alone[1], abs=1e-4)
        assert both[4] == pytest.approx(alone[4], abs=1e-5)
    assert all(map(torch.equal, envs[0].network.weights, envs[1].network.weights))


def test_a_step_that_teaches_the_new_requests_alone_is_a_success(make_env):
    process = make_env(rehearse=5).process
    process.advance([])
    new, d = process.batch.new_prompts, torch.zeros(process.sites[1].shape, requires_grad=True)
    optimizer = torch.optim.Adam([d], lr=0.03)
    for _ in range(40):
        loss = process.decoder.losses(new, [None, DenseUpdate(d)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    edit = SiteEdit(process.sites[1].name, Shift(), DenseUpdate(d.detach()))
    earlier = process.task.batch([(r.prompt, r.target) for r in process.batch.rehearsed])
    outcome = process.advance([edit])
    assert outcome.answered.tolist() == [True] * 3
    assert (outcome.metrics["reliability"], outcome.metrics["tf_efficacy"]) == (1, 1)
    right = process.decoder.logits(earlier).argmax(-1) == earlier.labels
    assert not earlier.all_of(right).all()


def test_coefficients_stretch_the_update_of_both(make_env):
    deltas = []
    for rehearse in (0, 5):
        env = make_env(rehearse=rehearse)
        env.step(np.zeros(env.action_space.shape, np.float32))
        expected = [direction.matrix() for direction in env.process.directions]
        env.step(env.training_free_action())
        for delta, other in zip(env.network.deltas, expected, strict=True):
            torch.testing.assert_close(delta, other, rtol=1e-3, atol=1e-5 * float(other.norm()))
        deltas.append(env.network.deltas[0])
    assert (deltas[0] - deltas[1]).norm() > 0.05 * deltas[0].norm()


# --- the row --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_row_says_with_how_many_texts_an_edit_was_taught(make_env):
    env = make_env(rehearse=4, split="test")
    site = env.process.sites[0]
    for step in range(4):
        update = updates_for(env.process)[0]
        env.process.advance([] if step == 3 else [SiteEdit(site.name, Shift(), update)])
    found = env.evaluate(env.journal).metrics["texts_per_edit"]
    assert found == (12 + 0 + 3 + 4) / 12, "the last step changed nothing"
    without = make_env(split="test")
    assert without.evaluate(without.journal).metrics["texts_per_edit"] == 1


def test_settings_are_those_of_the_constructor(make_env):
    env, other = make_env(rehearse=7), make_env()
    assert env.process.settings == replace(other.process.settings, rehearse=7)
