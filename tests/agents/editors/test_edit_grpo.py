"""Edit-GRPO: its advantages by hand, its gradients by autograd, and what a step does to a model."""

from dataclasses import replace

import gymnasium as gym
import pytest
import torch
import torch.nn.functional as F

from agents.catalogue import make_agent
from agents.editors.edit_grpo import EditGRPO, EditGRPOSettings
from agents.editors.grpo_advantages import alignment, group_advantages
from agents.editors.stream import stream_process
from agents.protocol import Agent, Budget, Unsupported
from editgym.metrics.knowledge import normalized
from editgym.weights import EditJournal, LowRankFactors, Shift, SiteEdit, Skip, TokenBatch

FIRST = {"editor": "ft_m", "editor_config": {"steps": 12, "learning_rate": 0.01}}
QUICK = {**FIRST, "iterations": 3, "rank": 2}


@pytest.fixture
def refined(stream_env):
    """`refined(env arguments, **settings)`: environment, agent and journal of an edit on the tiny
    model."""

    def make(env=None, **settings):
        agent, own = EditGRPO(**QUICK | settings), stream_env(split="test", **env or {})
        return own, agent, agent.edit(own)

    return make


def matrices(journal):
    return [entry.update.matrix() for entry in journal]


def same_edits(one, other):
    return len(one) == len(other) and all(map(torch.equal, matrices(one), matrices(other)))


# --- advantages -----------------------------------------------------------------------------------


def test_advantages_are_by_the_completions_of_a_groups_other_prompts():
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    facts = torch.tensor([0, 0, 0, 0, 0, 7, 7, 7, 7, 7])
    anchors = torch.tensor([True, True, False, False, False, True, False, False, False, False])
    found = group_advantages(rewards, facts, anchors)
    first, second = torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 0, 0, 0])
    expected = torch.cat(
        [(rewards[:5] - 1 / 3) / first.std(), (rewards[5:] - 1 / 4) / second.std()]
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert first.std() == pytest.approx(0.57735, abs=1e-4)


@pytest.mark.parametrize(
    ("rewards", "anchors"),
    [
        ([1, 0, 0, 0], [1, 0, 0, 0]),
        ([0, 1, 1, 1], [1, 0, 0, 0]),
        ([1, 0, 0, 1], [1, 1, 1, 0]),
        ([1, 0], [1, 1]),
    ],
)
def test_a_group_without_variance_beside_its_anchor_teaches_nothing(rewards, anchors):
    found = group_advantages(
        torch.tensor(rewards).float(),
        torch.zeros(len(rewards)).long(),
        torch.tensor(anchors).bool(),
    )
    assert not found.any()


def test_alignment_is_the_cosine_with_the_anchors_mean_rewarded_gradient():
    gradients = torch.tensor(
        [[2.0, 0], [0, 2], [9, -9], [1, 1], [-3, 0], [0, 1], [5, 5], [1, 0], [0, 1]]
    )
    facts = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    anchors = torch.tensor([True, True, True, False, False, False, True, False, False])
    rewards = torch.tensor(
        [1.0, 1, 0, 0, 1, 0, 0, 1, 0]
    )  # the second fact's anchor was never right
    half = 0.5**0.5
    assert alignment(gradients, facts, anchors, rewards).tolist() == pytest.approx(
        [0, 0, 0, 1, -half, half, 0, 0, 0], abs=1e-6
    )


def sampled_round(process, agent, **group):
    """A round on the new batch with rewards that differ, and what it was made of."""
    own = {**agent.settings.as_dict(), "learning_rate": 2e-3, "iterations": 10}
    agent.settings = EditGRPOSettings.of(
        own | {"rank": 2, "samples": 6, "temperature": 2.0} | group
    )
    agent.begin(process)
    edited = process.decoder.branch()
    factors = agent._factors(process)
    for update in factors:
        update.a.data.normal_(0, 0.01, generator=agent._sampler.generator)
    groups = agent._sampler.groups(process)
    return edited, factors, agent._sampler.sampled(process, edited, factors, groups), groups


def test_per_completion_gradients_are_those_of_autograd(make_process):
    """cos(g, g_anchor) of log-probabilities by the left factors, one completion at a time.

    In the last layer: what factors below it do at a prompt's own tokens is left out.
    """
    site = "model.layers.3.mlp.down_proj"
    process, agent = make_process(split="test", horizon=1, sites=[site]), EditGRPO(**QUICK)
    agent.begin(process)
    edited, factors = process.decoder.branch(), agent._factors(process)
    for update in factors:
        update.a.data.normal_(0, 0.05, generator=agent._sampler.generator)
    policy = edited.branch()
    policy.apply(
        *[
            SiteEdit(site.name, Shift(), LowRankFactors(u.a.detach(), u.b.detach()))
            for site, u in zip(process.sites, factors, strict=True)
        ]
    )
    language = process.task.language
    asked = [
        language.prompt_ids(text)
        for request in process.requests
        for text in (request.prompt, *request.rephrases[:2])
    ]
    pairs = [(ids, (5 + i, 7, 9)) for i, ids in enumerate(asked)]
    facts, anchors = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([True, False, False] * 2)
    rewards = torch.tensor([1.0, 0, 1, 1, 0, 0])
    texts = TokenBatch.of(pairs)
    found = agent._sampler._alignment(policy, texts, None, factors, facts, anchors, rewards)
    rows = []
    for pair in pairs:
        alone = TokenBatch.of([pair])
        total = -edited.losses(alone, factors).sum()  # the mean log-probability of its tokens
        rows.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(total, [u.a for u in factors])])
        )
    expected = alignment(torch.stack(rows), facts, anchors, rewards)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def scripted_rewards(monkeypatch, process):
    """Every third completion is its fact's target, whatever the model says."""
    language, count = process.task.language, [0]

    def sampled(prompts, generator, temperature, max_new_tokens, samples, stops):
        found = []
        for index in range(len(prompts) * samples):
            request = process.requests[index * len(process.requests) // (len(prompts) * samples)]
            right = language.encode(request.prompt, request.target).answer
            found.append(list(right) if index % 3 == 0 else [11 + index, 13, language.end_id])
        count[0] += 1
        return found

    monkeypatch.setattr(language, "sampled", sampled)
    return count


def test_the_bonus_changes_the_advantages_of_other_prompts_alone(make_process, monkeypatch):
    rounds = []
    for bonus in (0.0, 0.5):
        process, agent = make_process(split="test", horizon=1), EditGRPO(**QUICK, seed=3)
        scripted_rewards(monkeypatch, process)
        rounds.append(sampled_round(process, agent, bonus=bonus)[2])
    plain, with_bonus = rounds
    assert torch.equal(plain.texts.ids, with_bonus.texts.ids)
    anchor_ids = [
        make_process(split="test", horizon=1).task.language.prompt_ids(request.prompt)
        for request in process.requests
    ]
    anchors = torch.tensor(
        [
            any(tuple(row[: len(ids)].tolist()) == ids for ids in anchor_ids)
            for row in plain.texts.ids
        ]
    )
    gained = with_bonus.advantages - plain.advantages
    assert anchors.any()
    assert not gained[anchors].any()
    assert gained[~anchors].abs().max() > 1e-3
    assert gained.abs().max() <= 0.5 + 1e-5


def test_the_first_loss_is_minus_the_mean_advantage_and_its_gradient_the_policys(
    make_process, monkeypatch
):
    """Where old and new policy are one, the ratio is 1, nothing is clipped, and A·∇log p is what is
    left."""
    process, agent = make_process(split="test", horizon=1), EditGRPO(**QUICK)
    scripted_rewards(monkeypatch, process)
    edited, factors, one, _ = sampled_round(process, agent, kl_weight=0.0)
    loss, old = agent._loss(edited, factors, one, None)
    assert not old.requires_grad
    torch.testing.assert_close(agent._loss(edited, factors, one, old)[0], loss)
    drawn = torch.repeat_interleave(torch.arange(len(one.texts)), one.counts)
    assert len(drawn) > len(one.texts), (
        "completions that were drawn several times are computed once, and all count"
    )
    assert len({tuple(ids) for ids in one.texts.ids.tolist()}) == len(one.texts)
    assert float(loss.detach()) == pytest.approx(-float(one.advantages[drawn].mean()), abs=1e-4)
    leaves = [u.a for u in factors]
    found = torch.autograd.grad(loss, leaves)
    # Of the distribution that was sampled from, at temperature 2.
    tokens = F.cross_entropy(
        edited.logits(one.texts, factors) / 2, one.texts.labels, reduction="none"
    )
    expected = torch.autograd.grad((one.advantages * one.texts.means(tokens))[drawn].mean(), leaves)
    for first, second in zip(found, expected, strict=True):
        assert second.abs().max() > 0
        torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-2 * float(second.abs().max()))


def test_ratios_beyond_the_clip_teach_nothing_more_and_kl_pulls_back(make_process, monkeypatch):
    process, agent = make_process(split="test", horizon=1), EditGRPO(**QUICK)
    scripted_rewards(monkeypatch, process)
    edited, factors, one, _ = sampled_round(process, agent, kl_weight=0.0)
    leaves = [u.a for u in factors]
    old = agent._loss(edited, factors, one, None)[1]
    positive = replace(one, advantages=one.advantages.abs() + 0.1)
    gradients = torch.autograd.grad(
        agent._loss(edited, factors, positive, old - 1)[0], leaves
    )  # every ratio is e
    assert all(not g.any() for g in gradients)
    negative = replace(positive, advantages=-positive.advantages)
    assert any(
        g.any()
        for g in torch.autograd.grad(agent._loss(edited, factors, negative, old - 1)[0], leaves)
    )
    agent.settings = replace(agent.settings, kl_weight=1.0)
    idle = replace(one, advantages=torch.zeros_like(one.advantages))
    behind = idle.reference - old
    k3 = (one.texts.means(behind.exp() - behind - 1) * one.counts).sum() / one.counts.sum()
    assert k3 > 0
    assert float(agent._loss(edited, factors, idle, None)[0].detach()) == pytest.approx(
        float(k3), rel=1e-2
    )


# --- groups ---------------------------------------------------------------------------------------


def test_prompts_that_metrics_ask_are_never_read(make_process, monkeypatch):
    process, agent = make_process(split="test"), EditGRPO(**QUICK, prompts=4)
    agent.begin(process)
    request = process.requests[0]

    def group_of(request):
        monkeypatch.setattr(process.batch, "requests", (request,))
        return agent._sampler.groups(process)[0]

    assert group_of(request)[:2] == [request.prompt, request.rephrases[0]]
    assert not set(group_of(request)) & set(request.test_rephrases)
    published = replace(request, rephrases=request.test_rephrases)
    group = group_of(published)
    assert group[0] == request.prompt
    assert len(group) == len(set(group)) == 4
    assert all(text.endswith(f" {request.prompt}") for text in group[1:])
    assert not set(group) & set(request.test_rephrases)
    mixed = replace(request, rephrases=(request.test_rephrases[0], "Another wording"))
    assert group_of(mixed)[1] == "Another wording"
    endless = " ".join(["word"] * process.task.language.context)
    assert endless not in group_of(replace(request, rephrases=(endless,)))


def test_no_sentence_before_a_prompt_is_one_that_perplexity_is_measured_on(make_process):
    process = make_process(split="test")
    for seed in range(20):
        agent = EditGRPO(**QUICK, seed=seed)
        agent.begin(process)
        assert len(agent._sampler.sentences) == agent.settings.prompts
        assert not set(agent._sampler.sentences) & set(process.task.text.held_out)


def test_only_fields_for_rewards_are_looked_at(refined, stream_env):
    """Other prompts for metrics, and the edit is the same."""
    _, _, expected = refined(env={"horizon": 1})
    env = stream_env(split="test", horizon=1)
    process = stream_process(env)
    stream = process.stream
    changed = tuple(
        replace(
            r,
            near=(),
            far=(),
            portability=(),
            same_subject=(),
            truth="nothing",
            test_rephrases=("unseen",),
        )
        for r in stream.requests
    )
    process.reset = lambda seed: (
        type(process).reset(process, seed),
        setattr(process, "stream", replace(stream, requests=changed)),
        setattr(process, "_batch", process._next_batch(0)),
    )
    assert same_edits(EditGRPO(**QUICK).edit(env), expected)


def test_groups_that_are_all_right_are_taken_out_and_those_without_variance_teach_nothing(
    make_process, monkeypatch
):
    process, agent = make_process(split="test", horizon=1), EditGRPO(**QUICK)
    language = process.task.language
    answers = [list(language.encode(r.prompt, r.target).answer) for r in process.requests]

    def sampled(prompts, _generator, _temperature, _max_new_tokens, samples, stops):
        asked = len(prompts) * samples
        return [answers[0]] * (asked // 2) + [[11, language.end_id]] * (asked - asked // 2)

    monkeypatch.setattr(language, "sampled", sampled)
    agent.begin(process)
    edited, factors = process.decoder.branch(), agent._factors(process)
    groups = agent._sampler.groups(process)
    assert agent._sampler.sampled(process, edited, factors, groups) is None
    assert list(groups) == [1]
    entries = agent.entries(process)
    assert [type(entry.update).__name__ for entry in entries] == ["DenseUpdate"], (
        "the first editor's alone"
    )


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_is_the_first_editors_edit_and_a_low_rank_one_that_can_be_undone(
    stream_env, tmp_path, monkeypatch
):
    """A third of the completions are replaced by right ones."""
    env = stream_env(split="test", horizon=1)
    process = stream_process(env)
    agent = EditGRPO(**QUICK)
    agent.begin(process)
    language = process.task.language
    count = [0]
    own = language.sampled

    def sampled(prompts, *rest, stops):
        count[0] += 1
        return [
            list(language.encode("x", process.requests[0].target).answer) if i % 3 == 0 else ids
            for i, ids in enumerate(own(prompts, *rest))
        ]

    monkeypatch.setattr(language, "sampled", sampled)
    torch.manual_seed(0)
    entries = agent.entries(process)
    assert count[0] == 3
    first, refinement = entries[0], entries[1:]
    torch.manual_seed(0)
    alone = make_agent(FIRST["editor"], **FIRST["editor_config"])
    alone.begin(process)
    (expected,) = alone.entries(process)
    assert first.site == expected.site
    assert torch.equal(first.update.matrix(), expected.update.matrix())
    assert [entry.site for entry in refinement] == [site.name for site in process.sites]
    for entry in refinement:
        assert entry.update.a.shape[1] == 2
        assert entry.update.matrix().any()
        assert not entry.update.a.requires_grad
    before = process.decoder.weights
    process.advance(entries)
    assert not torch.equal(process.decoder.weights[0], before[0])
    journal = process.decoder.journal.save(tmp_path / "journal.safetensors")
    replayed = process.decoder.fresh()
    replayed.replay(EditJournal.load(journal))
    assert all(map(torch.equal, replayed.weights, process.decoder.weights))
    assert len(process.decoder.undo()) == 3
    assert all(map(torch.equal, process.decoder.weights, before))


@pytest.mark.parametrize("taught", [False, True])
def test_what_the_first_editor_leaves_out_is_skipped_unless_its_answers_teach(
    make_process, monkeypatch, taught
):
    process, agent = make_process(split="test", horizon=1), EditGRPO(**QUICK)
    agent.begin(process)
    skip = Skip(0, "a reason")
    monkeypatch.setattr(agent.first, "entries", lambda _process: [skip])
    if taught:
        scripted_rewards(monkeypatch, process)
    else:
        wrong = [11, process.task.language.end_id]
        monkeypatch.setattr(
            process.task.language,
            "sampled",
            lambda prompts, _generator, _temperature, _length, samples, stops: (
                [wrong] * (len(prompts) * samples)
            ),
        )
    entries = agent.entries(process)
    assert (skip in entries) is not taught
    assert any(isinstance(entry, SiteEdit) for entry in entries) is taught


def test_refined_edits_answer_at_least_as_many_rephrases_of_factlm():
    """After a weak fine-tuning: more samples of trained wordings are right, and no right prompt is
    lost overall."""
    shares = {}
    weak = {"editor": "ft_m", "editor_config": {"steps": 7, "learning_rate": 5e-3}}
    for name, agent in (
        ("first", make_agent("ft_m", **weak["editor_config"])),
        ("refined", EditGRPO(**weak, iterations=5, samples=3, learning_rate=4e-3)),
    ):
        env = gym.make("LifelongLLMEdit-v0", horizon=1, edits_per_step=4, split="validation")
        env.reset(seed=0)
        agent.edit(env)
        process = stream_process(env)
        asked = [
            (text, r.target) for r in process.stream.requests for text in (r.prompt, *r.rephrases)
        ]
        with process.decoder.active():
            answers = process.task.language.answers([text for text, _ in asked])
        shares[name] = sum(
            normalized(a) == normalized(t) for a, (_, t) in zip(answers, asked, strict=True)
        ) / len(asked)
    assert shares["first"] < 0.9, "the setting leaves something to be done"
    assert shares["refined"] > shares["first"], shares


def test_equal_seeds_give_equal_edits_and_other_seeds_others(stream_env):
    def edit(seed):
        agent = EditGRPO(**QUICK | {"iterations": 2})
        agent.learn(gym.spec("LifelongLLMEdit-v0"), Budget(), seed=seed)
        env = gym.make("LifelongLLMEdit-v0", horizon=1, edits_per_step=2, split="validation")
        env.reset(seed=0)
        assert agent.config["seed"] == seed
        return agent.edit(env)

    first, again, other = edit(1), edit(1), edit(2)
    assert same_edits(first, again)
    assert len(first) > 1, "something was learned"
    assert not same_edits(first, other)


def test_the_first_editor_draws_by_the_same_seed(tmp_path):
    agent = EditGRPO(editor="lora_merge", editor_config={"rank": 2})
    agent.learn(gym.spec("LifelongLLMEdit-v0"), Budget(), seed=5)
    agent.save(tmp_path)
    for one in (agent, EditGRPO.load(tmp_path)):
        assert (one.resolved(None).seed, one.first.resolved(None).seed) == (5, 5)
        assert one.config["editor_config"] == {"rank": 2, "seed": 5}


def test_a_seed_that_was_given_is_the_first_editor_s_too():
    agent = make_agent("edit_grpo", editor="lora_merge", seed=7)
    agent.learn(gym.spec("LifelongLLMEdit-v0"), Budget(), seed=5)
    assert (agent.resolved(None).seed, agent.first.resolved(None).seed) == (7, 7)


def test_an_interrupted_edit_goes_on_to_the_same_journal(stream_env, tmp_path, interrupted_edit):
    whole = EditGRPO(**QUICK).edit(stream_env(split="test"))
    agent, env = (
        EditGRPO(**QUICK),
        stream_env(split="test", journal_folder=str(tmp_path / "journal")),
    )
    interrupted_edit(agent, env, tmp_path / "state")
    agent.save(tmp_path / "agent")
    again = EditGRPO.load(tmp_path / "agent")
    assert again.config == agent.config
    assert same_edits(again.edit(gym.make(env.spec), tmp_path / "state"), whole)


def test_after_any_editor_at_sites_of_ones_own(refined):
    site = "model.layers.3.mlp.down_proj"
    env, agent, journal = refined(
        editor="ultraedit", editor_config={"step_size": 0.01}, sites=[site]
    )
    assert isinstance(agent, Agent)
    assert {entry.site for entry in journal if entry.step == 0} >= {site}
    assert journal.steps == 3
    assert env.unwrapped.evaluate(journal).metrics


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("prompts", 1),
        ("prompts", 2.0),
        ("samples", 0),
        ("iterations", 0),
        ("updates", True),
        ("rank", 0),
        ("learning_rate", 0),
        ("clip", -0.1),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("kl_weight", -1),
        ("bonus", float("inf")),
        ("seed", 0.5),
    ],
)
def test_an_argument_out_of_range_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {value!r}$"):
        EditGRPO(**{argument: value})


@pytest.mark.parametrize(
    "editor", ["edit_grpo", "ppo", "no_edit", "rledit", "in_context", "loc_ft_bf"]
)
def test_what_edits_first_is_an_editor_of_streams(editor):
    with pytest.raises(ValueError, match=f"^editor must be .*got '{editor}'"):
        EditGRPO(editor=editor)


def test_unknown_names_are_told(stream_env):
    with pytest.raises(ValueError, match=r"unknown setting 'sample' \(did you mean 'samples'\?\)"):
        EditGRPO(sample=3)
    with pytest.raises(ValueError, match="there is no 'ft_x'"):
        EditGRPO(editor="ft_x")
    with pytest.raises(Unsupported, match="not open for edits"):
        EditGRPO(**QUICK, sites=["nowhere"]).edit(stream_env(split="test"))
    with pytest.raises(Unsupported, match="streams of facts"):
        EditGRPO().edit(gym.make("ShiftWorld-v0"))
