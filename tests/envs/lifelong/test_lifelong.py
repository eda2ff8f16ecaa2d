"""LifelongLLMEdit: its rewards against their formula on plain models, its streams, and what
survives a crash."""

import copy
import json
import random
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from editgym.envs.lifelong.process import (
    DIRECTIONS,
    ClosedStreamError,
    LifelongProcess,
    LifelongSettings,
)
from editgym.envs.lifelong.reward import REWARD_FLOOR, RewardWeights
from editgym.envs.metering import count_reward_calls
from editgym.models.asking import Asking
from editgym.tasks import make_task
from editgym.weights import (
    DenseUpdate,
    JournalError,
    LowRankFactors,
    Shift,
    SiteEdit,
    Skip,
    UnknownSiteError,
)
from editgym.weights.closed_form import UltraEdit

SITES = ["model.layers.[23].mlp.down_proj"]
SMALL = {"edits_per_step": 2, "horizon": 3, "sites": SITES, "step_size": 1e-2}


@pytest.fixture
def make_env(tiny_lm):
    """`make_env(**arguments)`: an unwrapped environment on the tiny model."""
    return lambda **arguments: (
        gym.make("editgym:LifelongLLMEdit-v0", **{"model": tiny_lm} | SMALL | arguments).unwrapped
    )


@pytest.fixture
def make_process(tiny_lm):
    """`make_process(seed, **weights of the reward)`: a process at the beginning of the stream of
    `seed`."""

    def make(seed=7, edits_per_step=3, horizon=4, split="policy", **weights):
        task = make_task("knowledge/factworld", model=tiny_lm, sites=SITES, step_size=1e-2)
        process = LifelongProcess(
            task, LifelongSettings(edits_per_step, horizon, split, reward=RewardWeights(**weights))
        )
        process.reset(seed)
        return process

    return make


def updates_for(process, seed=0, size=0.05, count=()):
    generator = torch.Generator().manual_seed(seed)
    return [
        LowRankFactors(
            size * torch.randn(*count, site.shape[0], 2, generator=generator),
            torch.randn(*count, 2, site.shape[1], generator=generator),
        )
        for site in process.sites
    ]


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))


def own_requests(tmp_path, records):
    file = tmp_path / "requests.json"
    file.write_text(json.dumps(records))
    return {"task": "knowledge/custom", "requests": str(file)}


def record(subject, target="Oslo", **fields):
    return {
        "subject": subject,
        "prompt": f"{subject} lives in",
        "target": target,
        "locality": [{"prompt": "Bob lives in", "answer": "Rome"}],
    } | fields


# --- reward ---------------------------------------------------------------------------------------


class Plain:
    """The tiny model as `transformers` runs it, one text at a time."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.stops = [
            i
            for i in range(len(self.tokenizer))
            if "\n" in self.tokenizer.decode([i]) or i == self.tokenizer.eos_token_id
        ]

    def log_probabilities(self, prompt, answer):
        """(answer tokens, vocabulary)."""
        ids = self.tokenizer(prompt)["input_ids"]
        return self.model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1].log_softmax(-1)

    def tokens(self, prompt, answer):
        """Of an answer, with the end token."""
        whole = self.tokenizer(f"{prompt} {answer}")["input_ids"]
        return [*whole[len(self.tokenizer(prompt)["input_ids"]) :], self.tokenizer.eos_token_id]

    def answer(self, prompt):
        """Greedy tokens."""
        ids = torch.tensor([self.tokenizer(prompt)["input_ids"]])
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=self.stops,
            pad_token_id=0,
        )
        return out[0, ids.shape[1] :].tolist()

    def cross_entropy(self, prompt, target):
        answer = self.tokens(prompt, target)
        return F.nll_loss(self.log_probabilities(prompt, answer), torch.tensor(answer))


def divergence(before, now):
    return (before.exp() * (before - now)).sum(-1).mean()


@pytest.mark.parametrize("reference", ["original", "previous"])
@pytest.mark.parametrize(("back_depth", "locality_weight"), [(2, 0.6), (0, 2.0), (10, 0.0)])
def test_reward_is_its_formula_by_plain_forward_passes(
    tiny_lm, make_process, reference, back_depth, locality_weight
):
    weights = {
        "back_depth": back_depth,
        "decay": 0.5,
        "locality_weight": locality_weight,
        "norm_weight": 0.01,
        "reference": reference,
    }
    process = make_process(seed=7, **weights)
    original, previous, now = Plain(tiny_lm), Plain(tiny_lm), Plain(tiny_lm)
    choice, judged = random.Random("rewarded prompts 7"), []
    for step in range(4):
        rephrased = [
            (choice.choice(request.rephrases), request.target) for request in process.requests
        ]
        local = [choice.choice(request.locality).prompt for request in process.requests]
        judged.insert(0, (rephrased, [(prompt, original.answer(prompt)) for prompt in local]))
        updates = updates_for(process, seed=step)
        for site, update in zip(process.sites, updates, strict=True):
            now.model.get_submodule(site.name).weight += update.a @ update.b
        cost = 0.01 * sum((u.a @ u.b).square().sum() for u in updates)
        compared = original if reference == "original" else previous
        for age, (texts, preserved) in enumerate(judged[: back_depth + 1]):
            entropy = torch.stack([now.cross_entropy(*text) for text in texts]).mean()
            kl = torch.stack(
                [
                    divergence(compared.log_probabilities(*text), now.log_probabilities(*text))
                    for text in preserved
                ]
            ).mean()
            cost = cost + 0.5**age * (entropy + locality_weight * kl)
        outcome = process.step(updates)
        assert float(outcome.reward) == pytest.approx(-float(cost), abs=1e-4)
        for site, update in zip(process.sites, updates, strict=True):
            previous.model.get_submodule(site.name).weight += update.a @ update.b
    assert process.over


def test_the_differentiable_steps_reward_is_the_steps_and_it_applies_the_same(make_process):
    for reference in ("original", "previous"):
        one, other = make_process(reference=reference), make_process(reference=reference)
        for step in range(3):
            updates = updates_for(one, seed=step)
            plain, differentiable = one.step(updates), other.differentiable_step(updates)
            assert float(differentiable.reward) == pytest.approx(float(plain.reward), abs=1e-5)
            assert differentiable.metrics == plain.metrics
            assert torch.equal(differentiable.answered, plain.answered)
        assert same_weights(one.decoder, other.decoder)
        assert one.decoder.journal.steps == other.decoder.journal.steps == 3


@pytest.mark.parametrize("reference", ["original", "previous"])
def test_gradients_of_the_reward_are_its_finite_differences(make_process, reference):
    process = make_process(reference=reference, norm_weight=0.05, back_depth=2)
    process.step(updates_for(process, seed=1))
    process.step(updates_for(process, seed=2))
    updates = [
        LowRankFactors(u.a.requires_grad_(), u.b.requires_grad_())
        for u in updates_for(process, seed=3)
    ]
    leaves = [part for u in updates for part in (u.a, u.b)]
    outcome = process.differentiable_step(updates)
    gradients = torch.autograd.grad(2 * outcome.reward, leaves)
    assert outcome.reward.requires_grad
    twin = make_process(reference=reference, norm_weight=0.05, back_depth=2)
    twin.step(updates_for(twin, seed=1))
    twin.step(updates_for(twin, seed=2))
    for leaf, gradient in enumerate(gradients):
        # Along the gradient: there the difference is largest, and float32 has the most digits of
        # it.
        size = 0.02 / float(gradient.norm())
        moved = [
            torch.stack(
                [
                    part.detach() + (sign * size * gradient if index == leaf else 0)
                    for sign in (1, -1)
                ]
            )
            for index, part in enumerate(leaves)
        ]
        rewards = twin.candidate_rewards(
            [LowRankFactors(a, b) for a, b in zip(moved[::2], moved[1::2], strict=True)]
        )
        slope = float(rewards[0] - rewards[1]) / (2 * size)
        assert slope == pytest.approx(float(gradient.square().sum()) / 2, rel=0.02)


def test_gradients_and_rewards_do_not_depend_on_the_micro_batch(make_process):
    found = []
    for micro_batch in (1, 4, 512):
        process = make_process(micro_batch=micro_batch)
        process.step(updates_for(process, seed=1))
        updates = [
            LowRankFactors(u.a.requires_grad_(), u.b.requires_grad_()) for u in updates_for(process)
        ]
        reward = process.differentiable_step(updates).reward
        found.append(
            [
                reward.detach(),
                *torch.autograd.grad(reward, [p for u in updates for p in (u.a, u.b)]),
            ]
        )
    for other in found[:-1]:
        for one, another in zip(other, found[-1], strict=True):
            torch.testing.assert_close(one, another, rtol=1e-4, atol=1e-6)


def test_no_gradient_goes_through_earlier_steps(make_process):
    process = make_process()
    first = [LowRankFactors(u.a.requires_grad_(), u.b) for u in updates_for(process, seed=1)]
    second = [LowRankFactors(u.a.requires_grad_(), u.b) for u in updates_for(process, seed=2)]
    process.differentiable_step(first)
    reward = process.differentiable_step(second).reward
    reward.backward()
    assert all(update.a.grad is None for update in first)
    assert all(update.a.grad.abs().max() > 0 for update in second)


def test_a_clipped_update_has_no_differentiable_step(make_process):
    process = make_process()
    clipped = [LowRankFactors(u.a, u.b, bound=0.01) for u in updates_for(process)]
    with pytest.raises(ValueError, match="must not be clipped"):
        process.differentiable_step(clipped)
    assert (process.step_index, len(process.decoder.journal)) == (0, 0)


@pytest.mark.parametrize("reference", ["original", "previous"])
def test_rewards_of_candidates_are_those_of_single_steps(make_process, reference):
    process = make_process(reference=reference)
    process.step(updates_for(process, seed=1))
    candidates = updates_for(process, seed=4, count=(3,))
    with count_reward_calls() as meter:
        rewards = process.candidate_rewards(candidates)
    assert meter.calls == 3
    assert (process.step_index, process.decoder.journal.steps) == (1, 1)
    for k in range(3):
        twin = make_process(reference=reference)
        twin.step(updates_for(twin, seed=1))
        alone = twin.step([LowRankFactors(u.a[k], u.b[k]) for u in candidates])
        assert float(rewards[k]) == pytest.approx(float(alone.reward), abs=1e-4)


def test_a_wrong_number_of_updates_is_an_error(make_process):
    process = make_process()
    with pytest.raises(ValueError, match="updates: 2 are needed, one per site, got 1"):
        process.step(updates_for(process)[:1])


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_closed_stream_has_no_rewards(make_env, split):
    env = make_env(split=split)
    env.reset(seed=0)
    with count_reward_calls() as meter:
        observation, reward, _, _, info = env.step(env.training_free_action())
    assert (reward, meter.calls) == (0.0, 1), "what the step came to is shown, and counts"
    assert (info["generalization"], info["locality"]) == (0.0, 0.0)
    assert info["edits_done"] == 2
    assert np.abs(observation).max() > 0
    action = torch.zeros(env.action_space.shape, requires_grad=True)
    with pytest.raises(
        ClosedStreamError, match=f"split '{split}' is for evaluation and has no rewards"
    ):
        env.differentiable_step(action)
    candidates = updates_for(env.process, count=(2,))
    with pytest.raises(ClosedStreamError):
        env.process.candidate_rewards(candidates)
    assert env.process.step_index == 1


def test_a_closed_stream_stays_the_same_until_another_seed(make_env):
    env = make_env(split="test")

    def subjects(seed=None):
        env.reset(seed=seed)
        return [request.prompt for request in env.process.stream.requests]

    first = subjects(0)
    assert subjects() == first
    env.step(env.training_free_action())
    assert subjects() == first
    other = subjects(1)
    assert other != first
    assert subjects() == other
    assert subjects(0) == first


def test_an_open_stream_is_another_one_in_every_episode(make_env):
    env = make_env()
    seen = []
    for seed in (0, None, None):
        env.reset(seed=seed)
        seen.append(tuple(request.subject for request in env.process.stream.requests))
    assert len(set(seen)) == 3


def test_policy_and_test_streams_share_no_subject_and_no_rewarded_prompt(tiny_lm):
    task = make_task("knowledge/factworld", model=tiny_lm, sites=SITES, step_size=1e-2)
    drawn = {
        split: task.stream(split, 300, random.Random(0)).requests
        for split in ("policy", "validation", "test")
    }
    subjects = {
        split: {request.subject for request in requests} for split, requests in drawn.items()
    }
    assert all(len(names) == 300 for names in subjects.values())
    assert not subjects["policy"] & (subjects["validation"] | subjects["test"])
    assert not subjects["validation"] & subjects["test"]
    rewarded = {question.prompt for request in drawn["policy"] for question in request.locality}
    measured = {
        question.prompt for request in drawn["test"] for question in (*request.near, *request.far)
    }
    assert not rewarded & measured
    templates = {
        request.test_rephrases[0].replace(request.subject, "{}") for request in drawn["test"]
    }
    seen = {
        text.replace(request.subject, "{}")
        for request in drawn["policy"]
        for text in (request.prompt, *request.rephrases)
    }
    assert not templates & seen


def test_too_many_requests_name_the_arguments(make_env):
    env = make_env(horizon=500, edits_per_step=9, split="test")
    with pytest.raises(
        ValueError,
        match=r"4500 requests are asked for \(horizon × edits_per_step\), and the test "
        r"split has 1000",
    ):
        env.reset(seed=0)


def test_unusable_requests_are_skipped_and_counted(make_env, tmp_path, tiny_lm, monkeypatch):
    names = [f"P{i}" for i in range(60)]
    plain = make_env(**own_requests(tmp_path, [record(name) for name in names])).task.language
    said = plain.greedy([plain.prompt_ids(f"{name} lives in") for name in names])
    stops = plain.stop_ids | ({answer[1] for answer in said} - {answer[0] for answer in said})
    names = [name for name, answer in zip(names, said, strict=True) if answer[1] in stops]
    # or the random model's answers would never end
    monkeypatch.setattr(Asking, "stop_ids", stops)
    monkeypatch.setitem(vars(plain.asking()), "stop_ids", stops)
    known = {name: plain.answers([f"{name} lives in"])[0] for name in names}
    assert len(names) > 30
    records = [
        record(name, known[name] if i % 4 == 0 else "Oslo " * 130 if i % 4 == 1 else "Oslo")
        for i, name in enumerate(names)
    ]
    assert all(known.values())
    env = make_env(
        **own_requests(tmp_path, records),
        horizon=2,
        edits_per_step=2,
        device="cpu",
        dtype="float32",
    )
    skipped = set()
    for seed in range(6):
        _, info = env.reset(seed=seed)
        assert info["skipped"] == sum(env.process.stream.skipped.values())
        assert {request.target for request in env.process.stream.requests} == {"Oslo"}
        skipped |= env.process.stream.skipped.keys()
    assert skipped == {"longer than the context", "target equal to the current answer"}


# --- coefficients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("c_max", [3.0, 1.0])
def test_the_training_free_action_is_ultraedit(make_env, c_max):
    env = make_env(max_coefficient=c_max, edits_per_step=3)
    env.reset(seed=0)
    editors = [UltraEdit(site.shape) for site in env.process.sites]
    assert np.allclose(env.training_free_action(), 1 / c_max)
    for _ in range(3):
        captured = env.process.capture
        assert len(captured.keys[0]) > DIRECTIONS
        expected = [
            editor.update(keys, gradients, 1e-2).matrix()
            for editor, keys, gradients in zip(
                editors, captured.keys, captured.gradients, strict=True
            )
        ]
        env.step(env.training_free_action())
        applied = [entry.update.matrix() for entry in env.journal][-len(expected) :]
        for one, other in zip(applied, expected, strict=True):
            assert other.norm() > 1e-3
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.norm()))


@pytest.mark.parametrize("basis", ["ultraedit", "gradient"])
def test_coefficients_stretch_three_directions_and_the_rest_together(make_env, basis):
    env = make_env(basis=basis, edits_per_step=3)
    env.reset(seed=0)
    captured = env.process.capture
    action = np.array([[0.5, -1, 0.25, 0.1], [0, 1, 0, -0.5]], np.float32)
    expected = []
    for coefficients, keys, gradients in zip(
        3 * action, captured.keys, captured.gradients, strict=True
    ):
        whole = (
            UltraEdit((32, 64)).update(keys, gradients, 1e-2).matrix()
            if basis == "ultraedit"
            else -1e-2 * gradients.mT @ keys
        )
        u, s, vh = torch.linalg.svd(whole, full_matrices=False)
        assert (s > 1e-6 * s[0]).sum() > DIRECTIONS
        stretched = torch.tensor([*coefficients[:3], *[coefficients[3]] * (len(s) - 3)])
        expected.append(u @ torch.diag(s * stretched) @ vh)
    env.step(action.flatten())
    for delta, other in zip(env.network.deltas, expected, strict=True):
        torch.testing.assert_close(delta, other, rtol=1e-3, atol=1e-4 * float(other.norm()))


def test_zeros_leave_a_site_alone_and_no_entry_in_the_journal(make_env):
    env = make_env()
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape, np.float32))
    assert len(env.journal) == 0
    one_site = np.zeros(env.action_space.shape, np.float32)
    one_site[DIRECTIONS + 1] = 0.5
    env.step(one_site)
    assert [(entry.site, entry.step) for entry in env.journal] == [
        ("model.layers.3.mlp.down_proj", 1)
    ]
    assert torch.equal(env.network.weights[0], env.network.base_weights[0])
    assert np.linalg.matrix_rank(env.network.deltas[1].numpy(), tol=1e-6) == 1


def test_the_differentiable_step_of_the_environment_learns_coefficients(make_env):
    env, twin = make_env(), make_env()
    for each in (env, twin):
        each.reset(seed=0)
    action = torch.full(env.action_space.shape, 0.2, requires_grad=True)
    outcome = env.differentiable_step(action)
    outcome.reward.backward()
    assert action.grad.abs().max() > 0
    _, reward, *_ = twin.step(action.detach().numpy())
    assert float(outcome.reward.detach()) == pytest.approx(reward, abs=1e-4)
    assert same_weights(env.network, twin.network)
    better = torch.stack(
        [action.detach() + 0.1 * action.grad / action.grad.norm(), action.detach()]
    )
    env.reset(seed=0)
    rewards = env.process.candidate_rewards(
        env.process.stretched(3 * better.view(2, 2, DIRECTIONS))
    )
    assert rewards[0] > rewards[1]


def test_differentiable_steps_are_checked_like_others(make_env):
    env = make_env(horizon=1)
    env.reset(seed=0)
    for bad, message in (
        (torch.full(env.action_space.shape, 2.0), "every number must be in"),
        (torch.zeros(3), "action has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            env.differentiable_step(bad)
    env.differentiable_step(torch.zeros(env.action_space.shape))
    with pytest.raises(gym.error.ResetNeeded):
        env.differentiable_step(torch.zeros(env.action_space.shape))
    factors = make_env(action="factors")
    factors.reset(seed=0)
    with pytest.raises(ValueError, match="hand factors to"):
        factors.differentiable_step(torch.zeros(factors.action_space.shape))
    with pytest.raises(ValueError, match='action must be "coefficients"'):
        factors.training_free_action()


def test_a_step_that_is_only_followed_differs_in_nothing_but_its_reward(make_env):
    env, twin = make_env(), make_env()
    for each in (env, twin):
        each.reset(seed=0)
    action = env.training_free_action()
    with count_reward_calls() as meter:
        observation, over, info = env.follow(action)
    expected = twin.step(action)
    assert meter.calls == 1, "what the step came to is shown, and counts"
    assert np.array_equal(observation, expected[0])
    assert over is False
    assert info == expected[4] | {"generalization": 0.0, "locality": 0.0}
    assert env.step(action)[1] == twin.step(action)[1], "the rewards to come look back to it"
    assert env.follow(action)[1] is True
    with pytest.raises(gym.error.ResetNeeded):
        env.follow(action)
    with pytest.raises(ValueError, match="action has shape"):
        twin.follow(action[1:])
    assert env.journal.steps == 3


# --- factors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [2, "full"])
def test_factors_add_their_clipped_product(make_env, actions, rank):
    env = make_env(action="factors", rank=rank, shift_limit=0.02)
    env.reset(seed=0)
    sizes = [
        site.shape[0] * site.shape[1] if rank == "full" else 2 * sum(site.shape)
        for site in env.network.sites
    ]
    assert env.action_space.shape == (sum(sizes),)
    action = actions(env.action_space)[0]
    buffer = action.copy()
    env.step(buffer)
    buffer[:] = 9
    for delta, part, site in zip(
        env.network.deltas, np.split(action, np.cumsum(sizes)[:-1]), env.network.sites, strict=True
    ):
        rows, columns = site.shape
        a, b = (
            part[: rows * 2].reshape(rows, 2),
            (part[rows * 2 :].reshape(2, -1) if rank != "full" else None),
        )
        product = part.reshape(rows, columns) if rank == "full" else np.clip(a @ b / 2**0.5, -1, 1)
        assert delta.numpy() == pytest.approx(0.02 * product, abs=1e-6)
    assert len(env.journal) == 2
    journal = env.journal.entries[0]
    assert torch.equal(journal.operator.delta(journal.update), Shift(0.02).delta(journal.update))
    env.network.undo()
    assert same_weights(env.network, env.task.decoder)


def test_the_norm_term_counts_what_was_added(make_env, actions):
    rewards = []
    for norm_weight in (0.0, 10.0):
        env = make_env(action="factors", norm_weight=norm_weight)
        env.reset(seed=0)
        rewards.append(env.step(actions(env.action_space)[0])[1])
    added = sum(float(delta.square().sum()) for delta in env.network.deltas)
    assert rewards[0] - rewards[1] == pytest.approx(10 * added, rel=1e-3)


# --- observations and episodes --------------------------------------------------------------------


def test_observation_is_what_its_description_says(make_env):
    env = make_env(edits_per_step=3)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (2 * 38 + 3,)
    for i, (weight, direction) in enumerate(
        zip(env.network.base_weights, env.process.directions, strict=True)
    ):
        own = observation[38 * i : 38 * (i + 1)]
        assert np.linalg.norm(own[:16]) == pytest.approx(1, abs=0.4), (
            "a sketch keeps the norm in expectation"
        )
        singular = direction.a.norm(dim=0) / weight.norm()
        assert own[32:36] == pytest.approx(singular[:DIRECTIONS].numpy(), rel=1e-4)
        assert own[36] == pytest.approx(float(singular.norm()), rel=1e-4)
        assert own[37] == 0
    tokens = [
        len(env.task.language.encode(r.prompt, r.target).answer) for r in env.process.requests
    ]
    assert observation[-3] == pytest.approx(min(10.0, env.process.capture.loss), rel=1e-5)
    assert observation[-2] == pytest.approx(np.mean(tokens))
    assert observation[-1] == 0
    for step in range(1, 4):
        observation, _, terminated, _, _ = env.step(env.training_free_action())
        assert observation[-1] == pytest.approx(step / 3)
        for i, (delta, base) in enumerate(
            zip(env.network.deltas, env.network.base_weights, strict=True)
        ):
            assert observation[38 * i + 37] == pytest.approx(
                float(delta.norm() / base.norm()), rel=1e-4
            )
    assert terminated
    assert not observation[16:37].any(), "there are no new requests after the last step"
    assert observation in env.observation_space


def test_info_is_of_the_batch_right_after_its_edit(make_env):
    env = make_env(edits_per_step=3)
    env.reset(seed=0)
    requests = env.process.requests
    info = env.step(env.training_free_action())[4]
    language = env.task.language
    with env.network.active():
        answers = language.greedy([language.prompt_ids(request.prompt) for request in requests])
    right = [
        language.text(answer) == request.target
        for answer, request in zip(answers, requests, strict=True)
    ]
    assert info["reliability"] == pytest.approx(np.mean(right))
    assert info["is_success"] == float(all(right))
    assert 0 <= info["tf_efficacy"] <= 1
    assert (info["edit_step"], info["edits_done"]) == (1, 3)
    assert 0 <= info["generalization"] <= 1
    assert 0 <= info["locality"] <= 1


def test_the_end_token_is_no_part_of_teacher_forced_efficacy(make_env):
    env = make_env(edits_per_step=3)
    env.reset(seed=0)
    process = env.process
    prompts = process.prompts
    end = env.task.language.end_id
    info = env.step(env.training_free_action())[4]
    right = (env.network.logits(prompts).argmax(-1) == prompts.labels).tolist()
    shares = []
    for row in range(3):
        own = [
            hit
            for hit, label, at in zip(
                right, prompts.labels.tolist(), prompts.rows.tolist(), strict=True
            )
            if at == row and label != end
        ]
        shares.append(np.mean(own))
    assert info["tf_efficacy"] == pytest.approx(np.mean(shares))


def test_locality_is_told_whatever_its_weight(make_env):
    without, tiny, learning = (
        make_env(locality_weight=weight, edits_per_step=10) for weight in (0.0, 1e-6, 0.0)
    )
    for env in (without, tiny, learning):
        env.reset(seed=0)
    action = without.training_free_action() / 10
    info = without.step(action)[4]
    assert 0 < info["locality"] < 1
    assert info == tiny.step(action)[4]
    assert (
        info["locality"]
        == learning.differentiable_step(torch.from_numpy(action)).metrics["locality"]
    )


def test_a_strong_enough_edit_is_a_success(make_env):
    """Dense gradient steps on the new requests alone: every answer right, and the reward of the
    rephrases better."""
    env = make_env(edits_per_step=2, locality_weight=0.0)
    env.reset(seed=0)
    process = env.process
    updates = [torch.zeros(site.shape, requires_grad=True) for site in process.sites]
    optimizer = torch.optim.Adam(updates, lr=0.03)
    for _ in range(40):
        loss = process.decoder.losses(
            process.prompts, [DenseUpdate(d) for d in updates], process.prefix
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outcome = process.advance(
        [
            SiteEdit(site.name, Shift(), DenseUpdate(d.detach()))
            for site, d in zip(process.sites, updates, strict=True)
        ]
    )
    assert outcome.answered.all()
    assert (outcome.metrics["reliability"], outcome.metrics["tf_efficacy"]) == (1, 1)
    assert env.process.step_index == 1


def test_an_answer_of_one_token_and_one_edit_a_step_give_no_nan(make_env, tmp_path):
    names = [
        "Ada",
        "Bob",
        "Eve",
        "Kim",
        "Lou",
        "Max",
        "Ned",
        "Oda",
        "Pia",
        "Roy",
        "Sue",
        "Tim",
        "Uli",
        "Val",
        "Zoe",
    ]
    env = make_env(
        **own_requests(tmp_path, [record(name, "a", locality=[]) for name in names]),
        edits_per_step=1,
    )
    assert len(env.task.language.encode("Ada lives in", "a", end=False).answer) == 1
    observation, _ = env.reset(seed=0)
    assert np.isfinite(observation).all()
    for _ in range(3):
        observation, reward, _, _, info = env.step(env.training_free_action())
        assert info["locality"] == 0, "no locality prompt was there to be looked at"
        assert np.isfinite([reward, *info.values()]).all()
        assert np.isfinite(observation).all()
    assert all(torch.isfinite(weight).all() for weight in env.network.weights)


# --- collapse -------------------------------------------------------------------------------------


def collapse(process):
    """An edit that leaves every weight finite, and no activation above it."""
    site = process.sites[0]
    return [SiteEdit(site.name, Shift(), DenseUpdate(torch.full(site.shape, 3e38)))]


def test_a_step_into_collapse_returns_numbers_and_the_episode_goes_on(make_env):
    env = make_env(action="factors", shift_limit=3e38, horizon=2)
    env.reset(seed=0)
    observation, reward, _, _, info = env.step(np.ones(env.action_space.shape, np.float32))
    assert reward == REWARD_FLOOR
    assert np.isfinite(list(info.values())).all()
    assert observation in env.observation_space
    assert observation[-3] == 10, "the loss"
    assert not observation[32:37].any(), "there is no update"
    assert env.journal.steps == 1
    assert env.step(np.zeros(env.action_space.shape, np.float32))[2]


@pytest.mark.parametrize("limit", [50.0, 1e4, 1e10])
def test_near_a_collapse_steps_return_numbers_that_are_not_below_it(make_env, limit):
    env = make_env(action="factors", shift_limit=limit, horizon=2)
    env.reset(seed=0)
    for _ in range(2):
        observation, reward, *_ = env.step(np.ones(env.action_space.shape, np.float32))
        assert observation in env.observation_space
        assert reward >= REWARD_FLOOR


def test_coefficients_leave_a_collapsed_model_alone(make_env):
    env = make_env()
    env.reset(seed=0)
    env.process.advance(collapse(env.process))
    observation, reward, *_ = env.step(env.training_free_action())
    assert (reward, env.journal.steps) == (REWARD_FLOOR, 1)
    assert observation in env.observation_space
    with pytest.raises(FloatingPointError, match="are not finite"):
        env.differentiable_step(torch.zeros(env.action_space.shape))


def test_every_reward_of_the_tensor_api_has_a_floor(make_process):
    process = make_process()
    updates = updates_for(process)
    huge = [LowRankFactors(u.a * 1e38, u.b) for u in updates]
    several = [
        LowRankFactors(torch.stack([u.a, h.a]), torch.stack([u.b, h.b]))
        for u, h in zip(updates, huge, strict=True)
    ]
    rewards = process.candidate_rewards(several)
    assert float(rewards[0]) > -100
    assert float(rewards[1]) == REWARD_FLOOR
    assert (
        float(process.differentiable_step([LowRankFactors(h.a * 0.01, h.b) for h in huge]).reward)
        == REWARD_FLOOR
    )


def test_what_a_collapsed_model_showed_is_in_no_running_statistic(make_process):
    process = make_process()
    process.advance(collapse(process))
    with pytest.raises(FloatingPointError, match="are not finite"):
        _ = process.directions
    process.decoder.undo()
    process.advance([])
    assert all(torch.isfinite(update.matrix()).all() for update in process.directions)


# --- interruptions --------------------------------------------------------------------------------


def actions_for(env, steps):
    return (
        np.random.default_rng(3)
        .uniform(-0.5, 0.5, (steps, *env.action_space.shape))
        .astype(np.float32)
    )


@pytest.mark.parametrize("split", ["policy", "test"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_stream_that_was_interrupted_goes_on_bitwise(make_env, tmp_path, split, ahead):
    """With `ahead` a step was journalled after the last checkpoint; its edit is made again."""
    arguments = {"horizon": 6, "split": split, "back_depth": 0}
    whole = make_env(**arguments)
    whole.reset(seed=5)
    drawn = actions_for(whole, 6)
    seen = [whole.step(action) for action in drawn]

    first = make_env(**arguments, journal_folder=str(tmp_path / "journal"))
    first.reset(seed=5)
    for action in drawn[:3]:
        first.step(action)
    torch.save(first.checkpoint(), tmp_path / "state.pt")
    if ahead:
        first.step(drawn[3])
    del first

    wrapped = gym.wrappers.OrderEnforcing(
        make_env(**arguments, journal_folder=str(tmp_path / "journal"))
    )
    second = wrapped.unwrapped
    observation, info = wrapped.reset(
        options={"restore": torch.load(tmp_path / "state.pt", weights_only=True)}
    )
    assert np.array_equal(observation, seen[2][0])
    assert info == {"skipped": 0, "edit_step": 3, "edits_done": 6}
    assert second.journal.steps == 3
    for action, expected in zip(drawn[3:], seen[3:], strict=True):
        observation, reward, terminated, _, info = wrapped.step(action)
        assert np.array_equal(observation, expected[0])
        assert (reward, terminated, info) == (expected[1], expected[2], expected[4])
    assert same_weights(second.network, whole.network)
    assert [(entry.site, entry.step) for entry in second.journal] == [
        (e.site, e.step) for e in whole.journal
    ]
    assert all(
        torch.equal(a.update.matrix(), b.update.matrix())
        for a, b in zip(second.journal, whole.journal, strict=True)
    )
    with pytest.raises(gym.error.ResetNeeded):
        second.step(drawn[0])
    second.reset()
    whole.reset()
    assert second.process.stream == whole.process.stream
    assert not list((tmp_path / "journal").iterdir())


def test_a_restoration_that_is_interrupted_leaves_no_stream(make_env, monkeypatch):
    env = make_env(split="policy", back_depth=0)
    env.reset(seed=5)
    actions = actions_for(env, 3)
    for action in actions[:2]:
        env.step(action)
    state = env.checkpoint()
    expected = env.step(actions[2])
    with monkeypatch.context() as patch:
        patch.setattr(type(env.process), "_next_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            env.reset(options={"restore": state})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(actions[2])
    env.reset(options={"restore": state})
    observation, reward, *_ = env.step(actions[2])
    assert (reward, observation.tolist()) == (expected[1], expected[0].tolist())


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_state_with_the_journal_folder_of_another_run_is_refused(make_env, tmp_path):
    """Both have the same steps of the same stream; their edits differ."""
    states = []
    for run in (0, 1):
        env = make_env(split="test", journal_folder=str(tmp_path / str(run)))
        env.reset(seed=5)
        for action in actions_for(env, 2):
            env.step(action if run else -action)
        states.append(env.checkpoint())
    other = make_env(split="test", journal_folder=str(tmp_path / "1"))
    with pytest.raises(ValueError, match=r"step 1 holds other edits .* of the same run"):
        other.reset(options={"restore": states[0]})
    assert len(other.journal) == len(env.journal)
    _, info = other.reset(options={"restore": states[1]})
    assert info["edit_step"] == 2


@pytest.mark.parametrize("differentiable", [False, True])
def test_a_step_that_is_interrupted_before_it_counts_is_taken_back(
    make_process, monkeypatch, differentiable
):
    process, other = make_process(), make_process()
    updates = updates_for(process)

    def step(one):
        return one.differentiable_step(updates) if differentiable else one.step(updates)

    def interrupted(*_):
        raise KeyboardInterrupt

    for owner, name in ((process, "_finish"), (process._grades, "add")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, interrupted)
            assert process.directions  # the statistics have seen the batch, and see it once
            with pytest.raises(KeyboardInterrupt):
                step(process)
        assert (process.step_index, len(process.decoder.journal)) == (0, 0)
    assert other.directions
    assert process.directions
    assert process._ultraedit[0].keys.count == other._ultraedit[0].keys.count
    assert torch.equal(step(process).reward.detach(), step(other).reward.detach())
    assert same_weights(process.decoder, other.decoder)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"edits_per_step": 1}, "go on with the same task"),
        ({"horizon": 4}, "go on with the same task"),
        ({"journal_folder": "elsewhere"}, "give the same journal_folder"),
    ],
)
def test_a_checkpoint_of_another_stream_or_without_its_journal_is_refused(
    make_env, tmp_path, others, message
):
    arguments = {"split": "test", "journal_folder": str(tmp_path / "steps")}
    env = make_env(**arguments)
    env.reset(seed=0)
    env.step(env.training_free_action())
    state = env.checkpoint()
    if "journal_folder" in others:
        others = {"journal_folder": str(tmp_path / others["journal_folder"])}
    with pytest.raises(ValueError, match=message):
        make_env(**arguments | others).reset(options={"restore": state})
    twin = make_env(**arguments)
    twin.reset(options={"restore": state})
    assert same_weights(twin.process.decoder, env.process.decoder)


@pytest.mark.parametrize("steps", [None, 0, 2])
def test_a_checkpoint_that_lacks_what_its_steps_gave_is_refused(make_env, steps):
    env = make_env(split="test")
    env.reset(seed=0)
    env.step(env.training_free_action())
    state, before = env.checkpoint(), [weight.clone() for weight in env.network.weights]
    (outcome,) = state["process"].pop("outcomes")
    if steps is not None:
        state["process"]["outcomes"] = [outcome] * steps
    with pytest.raises(ValueError, match=rf"holds what {steps or 0} steps gave, and was saved af"):
        env.reset(options={"restore": state})
    assert all(torch.equal(a, b) for a, b in zip(env.network.weights, before, strict=True))
    assert env.process.step_index == 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state["process"]["ultraedit"].pop(), "it is damaged, .*zip"),
        (
            lambda state: state["process"]["ultraedit"][0]["keys"].update(mean=torch.zeros(3)),
            "it is damaged, .*mean must have the shape",
        ),
        (lambda state: state["process"]["outcomes"][0].pop("metrics"), "damaged, .*'metrics'"),
        (lambda state: state.update(random={"bit_generator": "PCG64"}), "random state is damaged"),
        (lambda state: state["process"].update(step_size=1.0), "saved with step_size=1.0, here it"),
    ],
)
def test_a_damaged_state_changes_nothing(make_env, tmp_path, damage, message):
    """Neither the stream that goes on, nor what an interrupted one has left on disk."""
    own = {"split": "test", "journal_folder": str(tmp_path)}
    env = make_env(**own)
    env.reset(seed=0)
    env.step(env.training_free_action())
    state = copy.deepcopy(env.checkpoint())
    env.step(env.training_free_action())
    damage(state)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"restore": state})
    assert env.process.step_index == 2
    assert len({entry.step for entry in env.journal}) == 2
    later = make_env(**own)
    with pytest.raises(ValueError, match=message):
        later.reset(options={"restore": state})
    with pytest.raises(ValueError, match="holds 2 steps of an interrupted stream"):
        later.reset(seed=0)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_state_of_other_sites_of_one_shape_is_refused(make_env):
    env = make_env(split="test", sites=["model.layers.2.mlp.down_proj"])
    env.reset(seed=0)
    other = make_env(split="test", sites=["model.layers.3.mlp.down_proj"])
    with pytest.raises(ValueError, match=r"saved with sites=\['model.layers.2.*here it is .*3"):
        other.reset(options={"restore": env.checkpoint()})


def test_two_environments_do_not_write_to_one_folder(make_env, tmp_path):
    one, two = (make_env(split="test", journal_folder=str(tmp_path)) for _ in range(2))
    for env in (one, two):
        env.reset(seed=0)
    one.step(one.training_free_action())
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    before = [weight.clone() for weight in two.network.weights]
    for again in (lambda: two.step(two.training_free_action()), lambda: two.reset(seed=1)):
        with pytest.raises(JournalError, match="holds step 0, which is not this journal's"):
            again()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
        assert all(torch.equal(a, b) for a, b in zip(two.network.weights, before, strict=True))
        assert two.process.step_index == 0
    one.step(one.training_free_action())
    assert len(list(tmp_path.iterdir())) == 2


def test_an_episode_is_taken_back_to_a_checkpoint_until_another_one_begins(make_env):
    env = make_env(split="test")
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) before checkpoint\(\)"):
        env.checkpoint()
    env.reset(seed=0)
    env.step(env.training_free_action())
    state, weights = env.checkpoint(), [weight.clone() for weight in env.network.weights]
    env.step(env.training_free_action())
    env.reset(options={"restore": state})
    assert all(torch.equal(a, b) for a, b in zip(env.network.weights, weights, strict=True))
    env.reset()
    env.step(-env.training_free_action())
    before = [weight.clone() for weight in env.network.weights]
    for options, seed, message in (
        ({"restore": state}, None, "the journal of its steps is gone"),
        ({"restore": state}, 3, "seed must be None where an episode is restored"),
        ({"restore": {"process": 1}}, None, r"must be what checkpoint\(\) gave, got dict"),
        ({"restore": None}, None, r"must be what checkpoint\(\) gave, got NoneType"),
        (["restore"], None, "options must be {.*}, or None, got"),
    ):
        with pytest.raises(ValueError, match=message):
            env.reset(seed=seed, options=options)
    assert all(torch.equal(a, b) for a, b in zip(env.network.weights, before, strict=True))
    assert env.process.step_index == 1


def test_a_checkpoint_knows_what_was_looked_at_before_it(make_env, tmp_path):
    """Looking at the new batch — an observation, candidate rewards — changes no running statistic
    twice."""
    arguments = {"horizon": 3, "back_depth": 0}
    whole, parts = make_env(**arguments), make_env(**arguments, journal_folder=str(tmp_path))
    for env in (whole, parts):
        env.reset(seed=5)
        env.step(env.training_free_action())
        env.process.candidate_rewards(updates_for(env.process, count=(2,)))
    state = parts.checkpoint()
    again = make_env(**arguments, journal_folder=str(tmp_path))
    again.reset(options={"restore": state})
    assert (
        again.step(again.training_free_action())[1] == whole.step(whole.training_free_action())[1]
    )
    assert same_weights(again.network, whole.network)


def test_rollback_to_a_step_equals_the_run_that_stopped_there(make_env):
    env, short = make_env(horizon=12, edits_per_step=1), make_env(horizon=12, edits_per_step=1)
    for each, steps in ((env, 12), (short, 7)):
        each.reset(seed=2)
        for _ in range(steps):
            each.step(each.training_free_action())
    env.network.rollback(7)
    assert same_weights(env.network, short.network)
    batch = env.task.example
    assert torch.equal(env.network.logits(batch), short.network.logits(batch))


def test_the_journal_folder_of_another_model_is_an_error(make_env, tmp_path):
    env = make_env(journal_folder=str(tmp_path))
    env.reset(seed=0)
    env.step(env.training_free_action())
    with pytest.raises(JournalError, match="use another folder"):
        make_env(journal_folder=str(tmp_path), dtype="bfloat16")


def test_a_half_precision_model_is_edited_beside_its_weights(make_env):
    env = make_env(dtype="bfloat16")
    env.reset(seed=0)
    for _ in range(3):
        _, reward, *_ = env.step(env.training_free_action())
        assert np.isfinite(reward)
    assert {weight.dtype for weight in env.network.weights} == {torch.float32}
    assert {weight.dtype for weight in env.network.base_weights} == {torch.bfloat16}


# --- evaluation and rendering ---------------------------------------------------------------------


def test_evaluate_is_of_the_episodes_stream(make_env):
    env = make_env(split="test", horizon=2)
    with pytest.raises(gym.error.ResetNeeded, match="draws the stream"):
        env.evaluate(env.journal)
    env.reset(seed=0)
    env.step(env.training_free_action())
    env.step(np.zeros(env.action_space.shape, np.float32))
    found = env.evaluate(env.journal)
    assert [row["subject"] for row in found.records] == [
        r.subject for r in env.process.stream.requests
    ]
    assert found.metrics["sites_per_edit"] == 1.0, "two sites in the first step, none in the second"
    assert found.curves["retention"][-1][0] == 3
    env.process.decoder.apply(
        SiteEdit(
            env.network.sites[0].name,
            Shift(),
            LowRankFactors(torch.zeros(32, 1), torch.zeros(1, 64)),
            7,
        )
    )
    with pytest.raises(JournalError, match="a step 7, but the stream ends after 2 steps"):
        env.evaluate(env.journal)


def test_rendering_shows_every_step(make_env):
    env = make_env(render_mode="ansi")
    with pytest.raises(gym.error.ResetNeeded):
        env.render()
    env.reset(seed=0)
    assert "step 0 of 3" in env.render()
    _, reward, *_ = env.step(env.training_free_action())
    text = env.render()
    assert text.startswith("knowledge/factworld · step 1 of 3")
    assert f"{reward:+.3f}" in text
    assert len(text.strip().split("\n")) == 3
    env = make_env(render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(env.training_free_action())
    after = env.render()
    assert before.shape == after.shape == (360, 900, 3)
    assert after.dtype == np.uint8
    assert (before != after).any()


@pytest.mark.filterwarnings("ignore:.*render")
def test_without_a_render_mode_there_is_no_frame(make_env):
    env = make_env()
    env.reset(seed=0)
    assert env.render() is None


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("action", "rank"),
        ("split", "train"),
        ("reference", "before"),
        ("basis", "svd"),
        ("render_mode", "gif"),
        ("edits_per_step", 0),
        ("edits_per_step", 2.0),
        ("edits_per_step", True),
        ("horizon", 0),
        ("horizon", "20"),
        ("micro_batch", 0),
        ("back_depth", -1),
        ("back_depth", 1.5),
        ("locality_weight", -0.1),
        ("locality_weight", float("nan")),
        ("norm_weight", float("inf")),
        ("norm_weight", "1"),
        ("decay", -1),
        ("decay", None),
        ("max_coefficient", 0),
        ("max_coefficient", float("inf")),
        ("shift_limit", 0.0),
        ("shift_limit", -1),
        ("observation_bound", 0),
        ("observation_bound", float("nan")),
        ("rank", 0),
        ("rank", 33),
        ("rank", "half"),
        ("journal_folder", 5),
        ("step_size", 0.0),
        ("step_size", -1.0),
        ("step_size", float("inf")),
        ("dtype", "float8"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_bad_arguments_are_named_with_their_value(make_env, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*got {value!r}$"):
        make_env(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"task": "knowledge/factwrld"},
            ValueError,
            "there is no 'knowledge/factwrld'; the nearest .*knowledge/factworld",
        ),
        (
            {"task": "unlearning/digits", "model": None, "step_size": None},
            ValueError,
            "takes no argument .*the environment itself takes .*edits_per_step",
        ),
        ({"device": "gpu"}, ValueError, "device: 'gpu' is not a device"),
        ({"model": "./nowhere"}, ValueError, r"there is no folder '\./nowhere'"),
        ({"model": "factml"}, ValueError, r"there is no 'factml'; did you mean 'factlm'\?"),
        ({"model": "SmolLM"}, ValueError, r"no 'SmolLM'; did you mean 'smollm2-135m'\?"),
        (
            {"sites": ["model.layers.7.mlp.*"]},
            UnknownSiteError,
            r"'model\.layers\.7\.mlp\.\*' matches none",
        ),
        ({"sites": []}, UnknownSiteError, "sites is empty"),
        (
            {"sites": "down_proj"},
            UnknownSiteError,
            r"sites must be a list of names or globs, got 'down_proj'; .*\[\"down_proj\"\]",
        ),
        (
            {"horizn": 3},
            ValueError,
            r"takes no argument 'horizn'.*the environment itself takes .*mean horizon\?\)",
        ),
        ({"step_size": {1}}, ValueError, "plain JSON values"),
    ],
)
def test_bad_arguments_of_the_task_say_what_is_wrong(make_env, arguments, error, message):
    with pytest.raises(error, match=message):
        make_env(**arguments)


def test_requests_are_read_again_when_their_file_has_changed(make_env, tmp_path):
    names = [
        "Ada",
        "Bob",
        "Eve",
        "Kim",
        "Lou",
        "Max",
        "Ned",
        "Oda",
        "Pia",
        "Roy",
        "Sue",
        "Tim",
        "Uli",
        "Val",
        "Zoe",
    ]
    arguments = own_requests(tmp_path, [record(name) for name in names]) | {"edits_per_step": 1}
    before = make_env(**arguments)
    assert make_env(**arguments).task is before.task
    own_requests(tmp_path, [record(name, "Rome") for name in names])
    after = make_env(**arguments)
    after.reset(seed=0)
    assert {request.target for request in after.process.stream.requests} == {"Rome"}


def test_a_file_of_the_data_folder_is_read_again_too(make_env, tmp_path, monkeypatch):
    monkeypatch.setenv("EDITGYM_DATA", str(tmp_path))
    names = [
        "Ada",
        "Bob",
        "Eve",
        "Kim",
        "Lou",
        "Max",
        "Ned",
        "Oda",
        "Pia",
        "Roy",
        "Sue",
        "Tim",
        "Uli",
        "Val",
        "Zoe",
    ]
    arguments = own_requests(tmp_path, [record(name) for name in names]) | {
        "requests": "requests.json"
    }
    before = make_env(**arguments, edits_per_step=1)
    own_requests(tmp_path, [record(name, "Rome") for name in names])
    assert make_env(**arguments, edits_per_step=1).task is not before.task


def test_a_task_without_requests_is_no_stream(tiny_lm):
    with pytest.raises(
        ValueError, match="is a UnlearningTask, and this environment needs a KnowledgeTask"
    ):
        gym.make("LifelongLLMEdit-v0", task="unlearning/digits")
    with pytest.raises(ValueError, match="is a KnowledgeTask"):
        gym.make("MaskWorld-v0", task="knowledge/factworld", model=tiny_lm)


def test_reset_takes_no_other_options(make_env):
    env = make_env()
    with pytest.raises(ValueError, match=r"options: \['goal'\] are not known"):
        env.reset(seed=0, options={"goal": 1})


def test_the_stream_ends(make_process):
    process = make_process(horizon=1)
    process.step(updates_for(process))
    assert process.over
    with pytest.raises(IndexError, match="the stream is over after 1 steps"):
        _ = process.requests


def test_settings_are_those_of_the_constructor(make_env):
    env = make_env(
        back_depth=4, decay=0.1, locality_weight=0.2, norm_weight=0.3, reference="previous"
    )
    assert env.process.settings.reward == replace(
        RewardWeights(),
        back_depth=4,
        decay=0.1,
        locality_weight=0.2,
        norm_weight=0.3,
        reference="previous",
    )
    assert env.episode_length == 3


def test_a_reset_does_not_delete_a_step_that_left_every_request_out(make_env, tmp_path):
    arguments = {"split": "test", "journal_folder": str(tmp_path / "steps")}
    env = make_env(**arguments)
    env.reset(seed=0)
    env.process.advance([Skip(0, "no subject")])
    files = sorted((tmp_path / "steps").iterdir())
    with pytest.raises(ValueError, match="steps holds 1 steps of an interrupted stream"):
        make_env(**arguments).reset(seed=0)
    assert sorted((tmp_path / "steps").iterdir()) == files


def test_a_reset_does_not_delete_the_steps_of_an_interrupted_stream(make_env, tmp_path):
    arguments = {"split": "test", "journal_folder": str(tmp_path / "steps")}
    env = make_env(**arguments)
    env.reset(seed=0)
    env.step(env.unwrapped.training_free_action())
    files = sorted((tmp_path / "steps").iterdir())
    again = make_env(**arguments)
    with pytest.raises(
        ValueError, match=r"journal_folder: .*steps holds 1 steps of an interrupted stream"
    ):
        again.reset(seed=0)
    assert sorted((tmp_path / "steps").iterdir()) == files
    again.reset(options={"restore": env.unwrapped.checkpoint()})
    again.reset(seed=0)
    assert not list((tmp_path / "steps").iterdir()), (
        "an episode of one's own is over when another begins"
    )


def test_a_copy_of_an_environment_says_that_it_has_no_episode(make_env):
    env = make_env()
    env.reset(seed=0)
    env.step(env.training_free_action())
    fork = copy.deepcopy(env)
    with pytest.raises(gym.error.ResetNeeded, match="no episode has begun: call reset"):
        fork.step(env.training_free_action())
    env.reset(seed=0)
    for _ in range(env.episode_length):
        env.step(env.training_free_action())
    with pytest.raises(gym.error.ResetNeeded, match="the episode is over: call reset"):
        env.step(env.training_free_action())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"journal_folder": ""}, "journal_folder must be the path of a folder"),
        ({"journal_folder": __file__}, "journal_folder must be the path of a folder"),
        ({"separator": "\n"}, "separator must be without a line break"),
        ({"step_size": "1e-3"}, "step_size must be greater than 0 and finite, or None"),
        ({"step_size": True}, "step_size must be greater than 0"),
        ({"text": "nowhere.txt"}, "text: no file at nowhere.txt"),
        ({"evaluate_formats": ["chat"]}, "no chat template"),
    ],
)
def test_what_cannot_be_is_found_out_before_anything_is_edited(make_env, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_env(**arguments)


def test_candidates_are_rewarded_within_an_episode_alone(make_env):
    env = make_env(horizon=1)
    candidates = np.stack([env.training_free_action()] * 2)
    with pytest.raises(gym.error.ResetNeeded):
        env.candidate_rewards(candidates)
    env.reset(seed=0)
    env.step(candidates[0])
    with pytest.raises(gym.error.ResetNeeded):
        env.candidate_rewards(candidates)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_action_to_learn_through_may_have_any_precision(make_env, dtype):
    env = make_env()
    env.reset(seed=0)
    action = torch.full((len(env.training_free_action()),), 0.25, dtype=dtype, requires_grad=True)
    env.differentiable_step(action).reward.backward()
    assert action.grad is not None
    assert action.grad.dtype == dtype


@pytest.mark.parametrize(
    ("prompts", "formats", "message"),
    [
        (5, None, "prompts must be a list of texts, got 5"),
        (["Ada"], 5, "formats must be a list of texts, 1 or more, got 5"),
        (["Ada"], [], "formats must be a list of texts, 1 or more"),
    ],
)
def test_what_is_asked_is_a_list_of_texts(make_env, prompts, formats, message):
    with pytest.raises(ValueError, match=message):
        make_env().ask(prompts, formats)
