"""The classical competitors of bias mitigation, each on a problem whose answer is known."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LinearRegression
from torch import nn

from agents.catalogue import AGENTS, make_agent
from agents.debiasing import fine_tuning as debiasing
from agents.debiasing.counterfactual import counterfactuals, independence_weights
from agents.debiasing.fine_tuning import LastLayerFineTune
from agents.debiasing.frontier import LinearFrontier
from agents.debiasing.last_layer import Features, Head, HeadOfNetwork, Point, best_within
from agents.debiasing.leace import erasure, leaning, towards
from agents.protocol import Budget, Unsupported
from editgym.data.images import Labelled
from editgym.data.text import Comments
from editgym.envs.metering import count_reward_calls
from editgym.tasks.debiasing import DebiasingTask
from editgym.weights import EditableNetwork, Mask, Shift, find_sites

COMPETITORS = ("last_layer_fine_tune", "site_fine_tune", "linear_frontier", "cda_reweight", "leace")


@pytest.fixture
def env():
    return gym.make("editgym:ShiftWorld-v0", task="debiasing/templates")


@pytest.fixture
def two_directions():
    """Features whose first number tells the label in general, the second in both sets, and a head
    that uses the first.

    In the unbiased set the first number is the identity, which says nothing.
    """
    generator = torch.Generator().manual_seed(0)
    sets = []
    for first_tells in (True, False):
        y = torch.randint(0, 2, (400,), generator=generator)
        identity = y if first_tells else torch.randint(0, 2, (400,), generator=generator)
        noise = 0.2 * torch.randn(400, 2, generator=generator)
        sets.append(Features(torch.stack([2.0 * identity - 1, 2.0 * y - 1], 1) + noise, y))
    return Head(torch.tensor([[-1.0, 0], [1, 0]]), torch.zeros(2)), tuple(sets)


# --- LEACE ----------------------------------------------------------------------------------------


@pytest.fixture
def concept_in_features():
    generator = torch.Generator().manual_seed(1)
    z = torch.randint(0, 2, (500, 2), generator=generator).float()
    x = (
        torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
        + 3 * z @ torch.randn(2, 6, generator=generator)
        + 1
    )
    return x, z


def test_concept_is_linearly_unpredictable_after_erasure(concept_in_features):
    x, z = concept_in_features
    erased = erasure(x, z)(x)
    assert LinearRegression().fit(x, z).score(x, z) > 0.5
    assert LinearRegression().fit(erased.double(), z).score(erased.double(), z) == pytest.approx(
        0, abs=1e-6
    )
    assert torch.allclose(erased.mean(0), x.mean(0), atol=1e-5)


def test_no_affine_map_erases_with_less_change(concept_in_features):
    """LEACE against the orthogonal projection, in the metric of theorem 4.3 and in the Euclidean
    one."""
    x, z = concept_in_features
    centred = x - x.mean(0)
    cross = centred.mT @ (z - z.mean(0))
    basis = torch.linalg.qr(cross)[0]
    orthogonal = centred - centred @ basis @ basis.mT
    assert LinearRegression().fit(orthogonal, z).score(orthogonal, z) == pytest.approx(0, abs=1e-5)
    precision = torch.linalg.inv(centred.mT @ centred / len(x))
    change = centred - (erasure(x, z)(x) - x.mean(0))
    for metric in (torch.eye(6), precision):
        least, other = (
            float(((d @ metric) * d).sum(1).mean()) for d in (change, centred - orthogonal)
        )
        assert least < other


def test_erasing_is_idempotent_and_needs_no_full_rank(concept_in_features):
    x, z = concept_in_features
    dead = torch.cat(
        [x, torch.zeros(len(x), 2), x[:, :1] + x[:, 1:2]], dim=1
    )  # dead units, and a copy
    first = erasure(dead, z)
    again = erasure(first(dead), z)
    assert torch.allclose(again(first(dead)), first(dead), atol=1e-3)
    assert LinearRegression().fit(first(dead), z).score(first(dead), z) == pytest.approx(
        0, abs=1e-4
    )
    assert not erasure(dead, torch.ones(len(x), 1)).matrix.any(), (
        "a constant concept: nothing to erase"
    )


def test_folded_layer_gives_what_the_old_one_gives_for_erased_features(concept_in_features):
    x, z = concept_in_features
    head = Head(torch.randn(2, 6), torch.randn(2))
    map_ = erasure(x, z)
    assert torch.allclose(map_.folded(head).logits(x), head.logits(map_(x)), atol=1e-4)


def test_leaning_is_the_mean_margin_of_an_identity():
    head = Head(torch.tensor([[0.0], [1.0]]), torch.zeros(2))
    x = torch.tensor([[1.0], [2], [5], [7]])
    assert leaning(head, x, ["a", "b", "a", "b"]).tolist() == [[3], [4.5], [3], [4.5]]


def test_leace_makes_the_leaning_unpredictable_in_the_network(env):
    agent = make_agent("leace")
    agent.learn(env.unwrapped.spec, Budget(), 0)
    (entry,) = agent.edit(env)
    task = env.unwrapped.task
    own = HeadOfNetwork(task.networks[0], task.pool.inputs[:8])
    x = own.features(task.labelled("policy").unbiased).x
    concept = leaning(own.head, x, task.splits.policy.unbiased.identities)
    edited = Head(entry.tensors["fc4.weight"], entry.tensors["fc4.bias"]).logits(x)
    margin = (edited[:, 1] - edited[:, 0]).double()
    before = own.head.logits(x)
    assert np.corrcoef(before[:, 1] - before[:, 0], concept[:, 0])[0, 1] > 0.5
    assert np.corrcoef(margin, concept[:, 0])[0, 1] == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("world", ["MaskWorld-v0", "ShiftWorld-v0"])
@pytest.mark.parametrize("length", [1, 3])
def test_projected_leace_stays_in_the_box_and_goes_towards_leace(world, length):
    env = gym.make(f"editgym:{world}", task="debiasing/templates", episode_length=length)
    target = make_agent("leace").edit(env).entries[0].tensors["fc4.weight"]
    journal = make_agent("leace", projected=True).edit(env)
    assert journal.steps == length
    network = env.unwrapped.network
    before, after = network.base_weights[0], network.weights[0]
    if world == "ShiftWorld-v0":
        assert (after - before).abs().max() <= 0.05 * length + 1e-6
    else:
        share = after / before
        assert share.min() >= 0
        assert share.max() <= 1
    assert 0 < (after - target).norm() < (before - target).norm()
    assert torch.equal(
        network.state_dict()["fc4.bias"], env.unwrapped.task.networks[0].state_dict()["fc4.bias"]
    )


@pytest.mark.parametrize(
    ("operator", "expected"), [(Shift(0.5), [[1.5, -0.4, 0.5]]), (Mask(), [[1.0, -0.2, 0.0]])]
)
def test_nearest_point_of_the_box(operator, expected):
    weight, target = torch.tensor([[1.0, -0.2, 0.0]]), torch.tensor([[4.0, -0.4, 3.0]])
    assert torch.allclose(
        operator.edited(weight, towards(operator, weight, target)), torch.tensor(expected)
    )


def test_projection_needs_the_last_layer_among_the_sites():
    env = gym.make("editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc3"])
    with pytest.raises(Unsupported, match="fc4, the last layer, is no site"):
        make_agent("leace", projected=True).edit(env)


# --- last layers ----------------------------------------------------------------------------------


def test_frontier_goes_from_the_shortcut_to_the_word(two_directions):
    _, sets = two_directions
    heads = LinearFrontier(weightings=(0.001, 1.0, 100.0)).trace(sets)
    unbiased = [head.accuracy(sets[1]) for head in heads]
    shares = [
        abs(float((head.weight[1] - head.weight[0])[0] / (head.weight[1] - head.weight[0])[1]))
        for head in heads
    ]
    assert shares[0] > shares[1] > shares[2]
    assert unbiased[2] > 0.99
    assert heads[2].accuracy(sets[0]) > 0.99


def test_frontier_is_scikit_learns_logistic_regression(two_directions):
    from sklearn.linear_model import LogisticRegression

    _, sets = two_directions
    (head,) = LinearFrontier(weightings=(1.0,), inverse_regularization=7.0).trace(sets)
    x, y = torch.cat([s.x for s in sets]), torch.cat([s.y for s in sets])
    fitted = LogisticRegression(C=7.0 * 1_000 / 400).fit(x, y)
    probability = torch.from_numpy(fitted.predict_proba(x)).float()
    assert torch.allclose(head.logits(x).softmax(1), probability, atol=1e-3)


def test_fine_tuning_the_last_layer_moves_it_to_the_word(two_directions):
    head, sets = two_directions
    assert head.accuracy(sets[1]) < 0.6
    agent = LastLayerFineTune(weightings=(3.0,), steps=300, learning_rate=0.05, check_every=100)
    candidates = [
        Head(*moved)
        for moved in agent.candidates(
            [head.weight, head.bias],
            lambda moved, weights: [
                weight * F.cross_entropy(Head(*moved).logits(part.x), part.y)
                for weight, part in zip(weights, sets, strict=True)
            ],
        )
    ]
    assert len(candidates) == 3
    assert candidates[-1].accuracy(sets[1]) > 0.99
    assert candidates[-1].accuracy(sets[0]) > 0.99


def test_choice_keeps_the_tolerance_and_beats_no_edit():
    points = {
        "costly": Point(0.85, 0.9),
        "best": Point(0.895, 0.7),
        "good": Point(0.95, 0.65),
        "worse": Point(0.9, 0.5),
    }

    def choose(*names):
        return best_within(Point(0.9, 0.6), names, points.__getitem__, 0.01)

    assert choose("costly", "good", "best", "worse") == "best"
    assert choose("good") == "good"
    assert choose("costly", "worse") is None
    assert choose() is None


def test_head_is_found_and_checked():
    class Head2(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.body, self.out, self.scale = nn.Linear(3, 4), nn.Linear(4, 2), scale

        def forward(self, x):
            return self.scale * self.out(F.relu(self.body(x)))

    x = torch.randn(5, 3)
    network = EditableNetwork(Head2(1.0), find_sites(Head2(1.0), ["out"]), x)
    own = HeadOfNetwork(network, x)
    assert own.site == "out"
    seen = own.features(Labelled(x, torch.zeros(5)))
    assert torch.allclose(seen.x, F.relu(network.base.body(x)))
    assert torch.allclose(own.head.logits(seen.x), network.logits(x), atol=1e-6)
    doubled = EditableNetwork(Head2(2.0), find_sites(Head2(2.0), ["out"]), x)
    with pytest.raises(Unsupported, match="does not give its two logits"):
        HeadOfNetwork(doubled, x)


# --- several layers -------------------------------------------------------------------------------


def test_fine_tuned_sites_follow_adam_through_the_whole_network():
    world = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc2", "fc4"], rank=2
    ).unwrapped
    world.reset(seed=0)
    agent = make_agent(
        "site_fine_tune", weightings=[0.5], steps=3, check_every=3, learning_rate=0.01
    )
    network = world.network
    policy = world.task.labelled("policy")
    activations = [network.activations(part.inputs) for part in policy]
    (found,) = agent.candidates(
        [weight.unsqueeze(0) for weight in network.weights],
        lambda moved, weights: [
            weight * F.cross_entropy(network.candidate_logits(moved, seen)[0], part.labels)
            for weight, seen, part in zip(weights, activations, policy, strict=True)
        ],
    )
    model = world.network.merged()
    weights = [model.fc2.weight, model.fc4.weight]
    optimizer = torch.optim.Adam(weights, lr=0.01)
    for _ in range(3):
        general, unbiased = (F.cross_entropy(model(part.inputs), part.labels) for part in policy)
        optimizer.zero_grad()
        (general + 0.5 * unbiased).backward()
        optimizer.step()
    for own, weight, base in zip(found, weights, world.network.base_weights, strict=True):
        assert (weight - base).abs().max() > 4e-4
        torch.testing.assert_close(own[0], weight.detach(), rtol=0, atol=2e-5)


def test_sites_are_fine_tuned_on_a_few_samples_at_a_time_as_on_all(monkeypatch):
    env = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc3", "fc4"], rank=2
    )

    def tuned():
        largest.clear()
        (entry,) = make_agent(
            "site_fine_tune", weightings=[0.5], steps=40, learning_rate=0.01
        ).edit(env)
        return entry.tensors

    largest, run = [], EditableNetwork.candidate_logits

    def watched(self, weights, seen):
        largest.append(len(seen[0]))
        return run(self, weights, seen)

    monkeypatch.setattr(EditableNetwork, "candidate_logits", watched)
    whole, samples = tuned(), max(largest)
    monkeypatch.setattr(debiasing, "_NUMBERS_IN_ONE_GRAPH", 64 * 1_000)  # fc3 has 64 inputs
    parts = tuned()
    assert samples > max(largest) == 1_000
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=2e-4)


def test_fine_tuned_sites_alone_change_and_lose_no_more_than_the_tolerance_on_validation():
    env = gym.make(
        "editgym:ShiftWorld-v0", task="debiasing/templates", sites=["fc3", "fc4"], rank=2
    )
    journal = make_agent("site_fine_tune", steps=200).edit(env)
    (entry,) = journal
    assert set(entry.tensors) == {"fc3.weight", "fc4.weight"}
    task, network = env.unwrapped.task, env.unwrapped.network

    def accuracies(one):
        return [
            float((one.logits(part.inputs).argmax(-1) == part.labels).double().mean())
            for part in task.labelled("validation")
        ]

    (general, unbiased), (general_before, unbiased_before) = (
        accuracies(network),
        accuracies(network.fresh()),
    )
    assert unbiased > unbiased_before
    assert general >= general_before - 0.01 - 1e-9


# --- counterfactual augmentation ------------------------------------------------------------------


def test_copies_name_other_terms_and_keep_the_label():
    texts = Comments(
        ("A Tall man said hi", "nothing here", "very tallish", "short people"), (1, 0, 0, 1)
    )
    made, named = counterfactuals(texts, ["tall", "short", "middle aged"], copies=3, seed=0)
    assert len(made) == 4 + 2 * 3
    assert named.count("") == 2
    for text, label, term in zip(made.texts, made.labels, named, strict=True):
        assert term in text.lower()
        if text.startswith("A "):
            assert label == 1
            assert text.endswith(" man said hi")
    assert {
        term for text, term in zip(made.texts, named, strict=True) if text.endswith("people")
    } <= {"short", "tall", "middle aged"}
    assert made == counterfactuals(texts, ["tall", "short", "middle aged"], copies=3, seed=0)[0]


def test_under_the_weights_group_and_label_are_independent():
    groups, labels = list("aaabbbbb"), [1, 1, 0, 0, 0, 0, 1, 0]
    weights = independence_weights(groups, labels).numpy()
    table = np.array(
        [
            [
                sum(w for w, g, y in zip(weights, groups, labels, strict=True) if (g, y) == (a, b))
                for b in (0, 1)
            ]
            for a in "ab"
        ]
    )
    assert table.sum() == pytest.approx(8)
    assert table == pytest.approx(np.outer(table.sum(1), table.sum(0)) / table.sum())


# --- as agents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitor_asks_for_no_reward_and_survives_save_and_load(name, env, tmp_path):
    assert name in AGENTS
    agent = make_agent(name)
    assert agent.access == "data"
    with count_reward_calls() as meter:
        agent.learn(env.unwrapped.spec, Budget(), seed=3)
        journal = agent.edit(env)
    assert meter.calls == 0
    agent.save(tmp_path / "agent")
    again = type(agent).load(tmp_path / "agent").edit(env)
    assert len(journal) == len(again)
    for one, other in zip(journal, again, strict=True):
        assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in one.tensors.items())


@pytest.mark.parametrize("name", ["linear_frontier", "cda_reweight"])
def test_competitor_mitigates_the_bundled_bias(name):
    gains, losses = [], []
    for seed in (1, 4):
        env = gym.make("editgym:ShiftWorld-v0", task="debiasing/templates", model_seed=seed)
        metrics = env.unwrapped.task.evaluate(make_agent(name).edit(env))
        gains.append(metrics["unbiased_accuracy"] - metrics["unbiased_accuracy_before"])
        losses.append(metrics["general_accuracy_before"] - metrics["general_accuracy"])
    assert np.mean(gains) > 0
    assert max(losses) < 0.03


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitor_refuses_other_tasks(name):
    with pytest.raises(Unsupported, match="unlearning/digits is not a debiasing task"):
        make_agent(name).learn(gym.spec("MaskWorld-v0"), Budget(), seed=0)


def test_unlearning_refuses_debiasing():
    with pytest.raises(Unsupported, match="debiasing/templates is not an unlearning task"):
        make_agent("fine_tune").learn(
            gym.make("MaskWorld-v0", task="debiasing/templates").spec, Budget(), seed=0
        )


def test_no_competitor_sees_the_test_split(monkeypatch):
    seen = []
    real = DebiasingTask.labelled
    monkeypatch.setattr(
        DebiasingTask, "labelled", lambda self, split: (seen.append(split), real(self, split))[1]
    )
    for name in COMPETITORS:
        make_agent(name).edit(gym.make("editgym:ShiftWorld-v0", task="debiasing/templates"))
    assert set(seen) == {"policy", "validation"}
