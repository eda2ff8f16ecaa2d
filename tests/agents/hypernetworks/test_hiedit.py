"""HiEdit: which sites its gates choose, what teaches them, and what they cost."""

import gymnasium as gym
import pytest
import torch

from agents.editors.stream import stream_process
from agents.hypernetworks.hiedit import HiEdit
from agents.hypernetworks.mend_malmen import Mend
from agents.hypernetworks.network import ShapeMismatchError
from agents.hypernetworks.rledit import RLEdit
from agents.protocol import Budget, Unsupported
from editgym.envs.metering import count_reward_calls
from editgym.weights import LowRankFactors

FOUR = {"sites": ["model.layers.[0123].mlp.down_proj"]}
QUICK = {
    "sequences": 2,
    "validate_every": 0,
    "learning_rate": 1e-2,
    "step_learning_rate": 0.1,
    "step_size": 0.03,
}
GATES = ["straight_through", "sampled", "static", "random", "all"]
LEARNED = ["straight_through", "sampled", "static"]


@pytest.fixture
def trained(stream_spec):
    """`trained(gate, seed, budget, **settings)`: on four sites of the tiny model."""

    def make(gate="sampled", seed=0, budget=None, kind=HiEdit, **settings):
        agent = kind(*([gate] if kind is HiEdit else []), **QUICK | settings)
        agent.learn(stream_spec(**FOUR), budget or Budget(), seed)
        return agent

    return make


def by_step(journal):
    return [
        [entry.site for entry in journal if entry.step == step] for step in range(journal.steps)
    ]


def matrices(journal):
    return [entry.update.matrix() for entry in journal]


# --- which sites ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "count", "edited"),
    [
        ("straight_through", None, 2),
        ("sampled", 3, 3),
        ("static", 1, 1),
        ("random", None, 2),
        ("all", None, 4),
        ("sampled", 4, 4),
    ],
)
def test_exactly_so_many_sites_are_edited_in_every_step(gate, count, edited, trained, stream_env):
    agent, env = trained(gate, sites_per_step=count, sequences=1), stream_env(split="test", **FOUR)
    journal = agent.edit(env)
    names = [site.name for site in stream_process(env).sites]
    assert [len(sites) for sites in by_step(journal)] == [edited] * 3
    assert all(sites == sorted(set(sites), key=names.index) for sites in by_step(journal))
    assert all(entry.update.matrix().any() for entry in journal)
    assert env.unwrapped.evaluate(journal).metrics["sites_per_edit"] == edited


def test_the_gate_all_is_rledit(trained, stream_env):
    """Trained and edited with: the same network bitwise, and the same journal."""
    ours, theirs = trained("all"), trained(kind=RLEdit)
    own = ours.policy.network.state_dict()
    assert all(
        torch.equal(own[name], value) for name, value in theirs.policy.network.state_dict().items()
    )
    one, other = (agent.edit(stream_env(split="test", **FOUR)) for agent in (ours, theirs))
    assert all(map(torch.equal, matrices(one), matrices(other)))
    assert len(one) == len(other) == 12


def test_a_static_gate_chooses_the_same_sites_for_every_batch(trained, stream_env):
    agent = trained("static", gate_learning_rate=0.5)
    first, *others = by_step(agent.edit(stream_env(split="test", **FOUR)))
    assert others == [first] * 2
    order = agent.policy.scores.scores.detach().argsort(descending=True)[:2].tolist()
    assert set(first) == {f"model.layers.{index}.mlp.down_proj" for index in order}
    assert agent.policy.scores.scores.detach().abs().max() > 0.1


def test_a_random_gate_draws_anew_in_every_step_and_the_same_in_every_edit(
    trained, stream_env, tmp_path
):
    agent = trained("random", sites_per_step=2)
    env = {"split": "test", "horizon": 8, **FOUR}
    first, again = (by_step(agent.edit(stream_env(**env))) for _ in range(2))
    assert first == again
    assert len({tuple(sites) for sites in first}) > 1
    agent.save(tmp_path)
    assert by_step(HiEdit.load(tmp_path).edit(stream_env(**env))) == first
    assert by_step(trained("random", seed=1).edit(stream_env(**env))) != first


def test_while_it_learns_a_gate_tries_other_sites_and_afterwards_no_longer(trained, make_process):
    policy = trained("straight_through", sequences=0).policy
    capture = make_process(**FOUR).capture
    policy.network.observe(capture.keys, capture.gradients)
    tried = {tuple(policy._gate(capture, explore=True)[0].tolist()) for _ in range(20)}
    assert len(tried) > 2
    assert all(sum(mask) == pytest.approx(2) for mask in tried)
    assert len({tuple(policy._gate(capture, explore=False)[0].tolist()) for _ in range(5)}) == 1


def test_a_high_cost_leaves_an_adaptive_gate_with_one_site(trained, stream_env):
    agent = trained(
        "straight_through",
        adaptive=True,
        site_cost=50.0,
        sites_per_step=4,
        gate_learning_rate=0.1,
        sequences=4,
    )
    assert [len(sites) for sites in by_step(agent.edit(stream_env(split="test", **FOUR)))] == [
        1,
        1,
        1,
    ]


# --- what teaches them ----------------------------------------------------------------------------


def test_the_scores_gradient_is_the_rewards_slope_along_each_sites_update(trained, make_process):
    """Of sites that were chosen, where the mask is 1, and of the others, where it is 0; by finite
    differences."""
    policy = trained("straight_through", sequences=0, sites_per_step=2).policy
    process, twin = make_process(**FOUR), make_process(**FOUR)
    state = policy.statistics()
    scores = torch.tensor([0.3, -0.2, 0.1, 0.4], requires_grad=True)
    policy._scored = lambda capture: scores
    policy.losses(process).backward()
    chosen = [bool(delta.any()) for delta in process.decoder.deltas]
    assert sum(chosen) == 2
    capture = twin.capture
    policy.load_statistics(state)
    policy.network.observe(capture.keys, capture.gradients)
    with torch.no_grad():
        updates = policy.network(capture.keys, capture.gradients)
    size = 0.02
    for site in range(4):
        masks = torch.tensor([[float(one) for one in chosen]] * 2)
        masks[:, site] += torch.tensor([size, -size])
        rewards = twin.candidate_rewards(
            [
                LowRankFactors(u.a * masks[:, i, None, None], u.b.expand(2, -1, -1))
                for i, u in enumerate(updates)
            ]
        )
        slope = float(rewards[0] - rewards[1]) / (2 * size)
        share = float(torch.sigmoid(scores.detach()[site]))
        assert abs(slope) > 1e-3
        assert float(scores.grad[site]) == pytest.approx(
            -slope * share * (1 - share), rel=0.05, abs=1e-4
        )


@pytest.mark.parametrize("gate", LEARNED)
def test_every_parameter_of_a_gate_gets_a_gradient_from_the_reward(gate, trained, make_process):
    policy = trained(gate, sequences=1).policy
    policy.losses(make_process(**FOUR)).backward()
    for name, parameter in policy.scores.named_parameters():
        assert parameter.grad is not None, name
        if (
            gate == "straight_through" or name != "head.2.bias"
        ):  # which moves all scores alike, and no choice
            assert parameter.grad.abs().max() > 0, name


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("calls", [16, 40])
def test_the_budget_counts_every_candidate(gate, calls, trained):
    with count_reward_calls() as meter:
        trained(gate, budget=Budget(reward_calls=calls), sequences=2)
    per_sequence = 15 if gate in ("sampled", "static") else 3
    with pytest.raises(ValueError, match=f"do not pay for one sequence of {per_sequence} "):
        trained(gate, budget=Budget(reward_calls=per_sequence - 1), sequences=2)
    assert meter.calls == min(2, calls // per_sequence) * per_sequence
    assert meter.calls <= calls


# --- over another policy, saved and resumed -------------------------------------------------------


def test_learning_starts_from_a_saved_low_level(trained, stream_env, tmp_path):
    low = trained(kind=RLEdit, sequences=3)
    low.save(tmp_path / "low")
    agent = trained("all", low_level=str(tmp_path / "low"), sequences=0)
    ours, theirs = agent.policy.network.state_dict(), low.policy.network.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    env = {"split": "test", **FOUR}
    expected = low.edit(stream_env(**env))
    assert all(map(torch.equal, matrices(agent.edit(stream_env(**env))), matrices(expected)))
    agent.save(tmp_path / "agent")
    (tmp_path / "low" / "policy.pt").unlink()
    again = HiEdit.load(tmp_path / "agent")
    assert all(map(torch.equal, matrices(again.edit(stream_env(**env))), matrices(expected)))


def test_a_low_level_that_learned_the_step_size_itself_edits_as_before(
    trained, stream_env, tmp_path
):
    low = trained(kind=RLEdit, mode="released", passes=2)
    with torch.no_grad():
        low.policy.network.steps.copy_(torch.tensor([0.0558, 0.02, 0.01, 0.03]))
    low.save(tmp_path)
    agent = trained("all", low_level=str(tmp_path), passes=2, sequences=0)
    one, other = (matrices(each.edit(stream_env(split="test", **FOUR))) for each in (agent, low))
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    with torch.no_grad():
        low.policy.network.steps[2] = -0.25
    low.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"η greater than 0 at every site.*layers\.2\.mlp\.down_proj': -0\.25"
    ):
        trained("all", low_level=str(tmp_path), sequences=0)


@pytest.mark.parametrize(("kind", "own"), [(RLEdit, {"rule": "mend"}), (Mend, {})])
def test_a_low_level_of_another_rule_is_refused(kind, own, trained, tmp_path):
    trained(kind=kind, sequences=0, **own).save(tmp_path)
    with pytest.raises(ValueError, match=r"^low_level must be .* rule, 'malmen', got 'mend'$"):
        trained("all", low_level=str(tmp_path), sequences=0)
    trained("all", low_level=str(tmp_path), rule="mend", passes=2, sequences=0)


def test_a_low_level_that_does_not_fit_is_refused(trained, stream_spec, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"^low_level: no policy in .*nowhere.* rledit, malmen or mend"
    ):
        trained("all", low_level=str(tmp_path / "nowhere"), sequences=0)
    trained(kind=RLEdit, sequences=0).save(tmp_path)
    agent = HiEdit("all", low_level=str(tmp_path), **QUICK)
    with pytest.raises(ShapeMismatchError, match="the policy was trained on 4"):
        agent.learn(stream_spec(), Budget(), seed=0)
    for other in ({"rank": 2}, {"blocks": 2}, {"blocks": 5}):
        with pytest.raises(
            ValueError, match=r"^low_level must be a network with this agent's blocks and rank \("
        ):
            trained("all", low_level=str(tmp_path), sequences=0, **other)


@pytest.mark.parametrize("gate", GATES)
def test_a_saved_policy_makes_the_same_edit_bitwise(gate, trained, stream_env, tmp_path):
    agent = trained(gate, gate_learning_rate=0.3)
    first = agent.edit(stream_env(split="test", **FOUR))
    agent.save(tmp_path)
    again = HiEdit.load(tmp_path)
    assert again.config == agent.config
    journal = again.edit(stream_env(split="test", **FOUR))
    assert by_step(journal) == by_step(first)
    assert all(map(torch.equal, matrices(journal), matrices(first)))


@pytest.mark.parametrize("gate", ["sampled", "random"])
def test_an_interrupted_edit_and_an_interrupted_training_go_on_bitwise(
    gate, trained, stream_spec, stream_env, tmp_path, monkeypatch, interrupted_edit
):
    from agents.hypernetworks.learning import SequenceLearner

    agent = trained(gate)
    run = SequenceLearner._sequence

    def stopped(self, index):
        if index == 1:
            raise KeyboardInterrupt
        return run(self, index)

    monkeypatch.setattr(SequenceLearner, "_sequence", stopped)
    parts = HiEdit(gate, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        parts.learn(stream_spec(**FOUR), Budget(), 0, tmp_path / "learn")
    monkeypatch.setattr(SequenceLearner, "_sequence", run)
    parts = HiEdit(gate, **QUICK)
    parts.learn(stream_spec(**FOUR), Budget(), 0, tmp_path / "learn")
    assert all(
        torch.equal(value, parts.policy.state_dict()[name])
        for name, value in agent.policy.state_dict().items()
    )
    whole = agent.edit(stream_env(split="test", **FOUR))
    env = stream_env(split="test", journal_folder=str(tmp_path / "journal"), **FOUR)
    interrupted_edit(parts, env, tmp_path / "state")
    resumed = parts.edit(gym.make(env.spec), tmp_path / "state")
    assert by_step(resumed) == by_step(whole)
    assert all(map(torch.equal, matrices(resumed), matrices(whole)))


def test_all_passes_edit_the_same_sites(trained, stream_env):
    journal = trained("sampled", passes=2, sequences=1).edit(stream_env(split="test", **FOUR))
    assert [len(sites) for sites in by_step(journal)] == [2, 2, 2]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("gate", "learned"),
        ("sites_per_step", 0),
        ("sites_per_step", 1.5),
        ("sites_per_step", True),
        ("adaptive", 1),
        ("site_cost", -0.1),
        ("gate_learning_rate", float("nan")),
        ("rule", "rome"),
        ("passes", 0),
        ("step_size", 0),
    ],
)
def test_an_argument_out_of_range_is_named(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} must be .*got {value!r}$"):
        HiEdit(**{argument: value})


@pytest.mark.parametrize("gate", ["sampled", "static", "random", "all"])
def test_only_straight_through_gates_adapt(gate):
    with pytest.raises(ValueError, match=f"^adaptive must be False with gate '{gate}'"):
        HiEdit(gate, adaptive=True)


def test_more_sites_than_there_are_is_an_error(trained):
    with pytest.raises(
        ValueError, match="sites_per_step must be at most 4, the number of sites, got 5"
    ):
        trained(sites_per_step=5)


def test_mask_world_is_refused():
    with pytest.raises(Unsupported, match="LifelongLLMEdit and ShiftWorld"):
        HiEdit().learn(gym.spec("MaskWorld-v0"), Budget(), seed=0)
