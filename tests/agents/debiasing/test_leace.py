"""LEACE erases what it should, as little as possible, and stays in the box where it is asked to."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from agents.catalogue import make_agent
from agents.debiasing.last_layer import Head, HeadOfNetwork
from agents.debiasing.leace import erasure, leaning, towards
from agents.protocol import Budget, Unsupported
from editgym.weights import Mask, Shift


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


def test_leaning_of_several_identities_is_their_mean_and_of_none_that_of_all():
    head = Head(torch.tensor([[0.0], [1.0]]), torch.zeros(2))
    x = torch.tensor([[1.0], [2], [5], [7]])
    assert leaning(head, x, [("a", "b"), "b", "a", ()]).tolist() == [[2.25], [1.5], [3], [3.75]]
    assert leaning(head, x, [()] * 4).tolist() == [[3.75]] * 4


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


def test_projected_leace_makes_no_step_after_an_episode_is_truncated():
    lengths = {"episode_length": 3, "max_episode_steps": 1}
    env = gym.make("editgym:ShiftWorld-v0", task="debiasing/templates", **lengths)
    assert make_agent("leace", projected=True).edit(env).steps == 1
