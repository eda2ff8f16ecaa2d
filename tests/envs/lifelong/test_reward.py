"""Parts of the stream's reward, by hand."""

from types import SimpleNamespace

import pytest
import torch

from editgym.envs.lifelong import reward
from editgym.envs.lifelong.reward import RewardWeights, floored, squared_norm, squared_norms
from editgym.weights import Codebook, DenseUpdate, LowRankFactors, Mask, Shift, SiteEdit


def test_rewards_that_are_no_numbers_are_the_floor():
    nan, infinite = float("nan"), float("inf")
    rewards = torch.tensor([-2.5, nan, infinite, -infinite, -2e6])
    assert floored(rewards).tolist() == [-2.5, -1_000_000, -1_000_000, -1_000_000, -2e6]


def test_weights_of_the_terms_are_rledits_unless_given():
    weights = RewardWeights()
    assert (weights.back_depth, weights.decay) == (10, 0.95)
    assert (weights.locality_weight, weights.norm_weight) == (0.6, 1e-4)
    assert (weights.reference, weights.micro_batch) == ("original", 512)


@pytest.mark.parametrize("record", [RewardWeights, reward.Costs, reward._Judged, reward._Piece])
def test_records_cannot_be_changed(record):
    assert record.__dataclass_params__.frozen


@pytest.mark.parametrize("lead", [(), (3,)])
def test_squared_norms_are_those_of_the_products(lead):
    torch.manual_seed(0)
    updates = [
        LowRankFactors(torch.randn(*lead, 4, 2), torch.randn(*lead, 2, 5), scale=scale)
        for scale in (1.0, 3.0)
    ]
    expected = torch.stack([update.matrix().square().sum((-2, -1)) for update in updates])
    torch.testing.assert_close(squared_norms(updates), expected)
    assert squared_norms(updates).shape == (2, *lead)


def test_squared_norm_of_an_entry_by_hand():
    a, b = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0, 0.0, 3.0]])  # 1 0 3, 2 0 6
    assert squared_norm(SiteEdit("site", Shift(), LowRankFactors(a, b))) == pytest.approx(50)
    scaled = LowRankFactors(a, b, scale=2.0)
    assert squared_norm(SiteEdit("site", Shift(0.5), scaled)) == pytest.approx(50)
    clipped = LowRankFactors(a, b, bound=2.0)  # 1 0 2, 2 0 2
    assert squared_norm(SiteEdit("site", Shift(3.0), clipped)) == pytest.approx(9 * 13)
    dense = DenseUpdate(torch.tensor([[1.0, -2.0]]))
    assert squared_norm(SiteEdit("site", Shift(2.0), dense)) == pytest.approx(4 * 5)
    assert squared_norm(SiteEdit("site", Mask(), LowRankFactors(a, b))) == 0
    code = Codebook("site", torch.ones(1, 3), torch.ones(1, 2), torch.ones(1))
    assert squared_norm(code) == 0


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([2, 3, 4, 1], 5, [[2, 3], [4, 1]]),
        ([2, 3, 4, 1], 4, [[2], [3], [4], [1]]),
        ([2, 3, 4, 1], 100, [[2, 3, 4, 1]]),
        ([9, 1, 9], 2, [[9], [1], [9]]),  # one text more than the limit still goes
        ([1, 1, 1], 2, [[1, 1], [1]]),
        ([], 2, []),
    ],
)
def test_as_many_texts_go_together_as_the_limit_allows(sizes, limit, expected):
    pieces = [SimpleNamespace(texts=range(size)) for size in sizes]
    groups = reward._grouped(pieces, limit)
    assert [[len(piece.texts) for piece in group] for group in groups] == expected
