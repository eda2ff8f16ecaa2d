"""Selective synaptic dampening of two weights, by hand."""

import pytest
import torch
from torch import nn

from agents.unlearning.descent import Sets, saliency_masks
from agents.unlearning.ssd import dampening, importance, ssd


class TwoWeights(nn.Module):
    """The logit of class 1 is w·x − 2.6, that of class 0 is 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, 3.0]))

    def forward(self, x):
        logit = x @ self.w - 2.6
        return torch.stack([torch.zeros_like(logit), logit], dim=-1)


@pytest.fixture
def two(labelled):
    """At both samples w·x = 2.6, so p = 1/2 and the gradient is −x/2."""
    return TwoWeights(), Sets(labelled([[1.0, 0.2]], [1]), labelled([[0.4, 0.6]], [1]), 2, seed=0)


def test_importance_is_the_squared_gradient_by_hand(two):
    model, sets = two
    assert importance(model, sets.retain, 1)["w"].tolist() == pytest.approx([0.25, 0.01])
    assert importance(model, sets.forget, 1)["w"].tolist() == pytest.approx([0.04, 0.09])


class WithHead(TwoWeights):
    """Two weights, and a head for training alone, on which no logit depends."""

    def __init__(self):
        super().__init__()
        self.auxiliary = nn.Linear(2, 2)


def test_what_no_logit_depends_on_has_no_importance(two):
    found = importance(WithHead(), two[1].retain, 1)
    assert found["w"].tolist() == pytest.approx([0.25, 0.01])
    assert not found["auxiliary.weight"].any()
    masks = saliency_masks(WithHead(), two[1].forget, 0.25)
    assert masks["w"].sum() == 2
    assert not masks["auxiliary.weight"].any()


@pytest.mark.parametrize(
    ("alpha", "strength", "expected"),
    [
        (5.0, 1.0, [2.0, 3.0 / 9]),  # 0.09 > 5·0.01: times 0.01/0.09; 0.04 < 5·0.25 stays
        (10.0, 1.0, [2.0, 3.0]),  # 0.09 < 10·0.01
        (5.0, 0.5, [2.0, 3.0 / 18]),
        (5.0, 100.0, [2.0, 3.0]),  # never a growth
        (0.1, 1.0, [2.0, 3.0 / 9]),  # 0.04 > 0.1·0.25 too, but 0.25/0.04 > 1
    ],
)
def test_ssd_dampens_two_weights_as_computed_by_hand(two, alpha, strength, expected):
    model, sets = two
    ssd(model, sets, {"alpha": alpha, "dampening": strength, "batch_size": 1})
    assert model.w.tolist() == pytest.approx(expected)


def test_importance_is_a_mean_over_batches(labelled):
    data = labelled([[1.0, 0.2], [0.4, 0.6]], [1, 1])
    one_by_one, together = (importance(TwoWeights(), data, size)["w"].tolist() for size in (1, 2))
    assert one_by_one == pytest.approx([(0.25 + 0.04) / 2, (0.01 + 0.09) / 2])
    assert together == pytest.approx([0.35**2, 0.2**2])


def test_a_weight_without_any_importance_stays():
    zero = torch.zeros(2)
    assert dampening(zero, zero, 1.0, 1.0).tolist() == [1.0, 1.0]
