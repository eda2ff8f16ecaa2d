import pytest
import torch

from editgym.weights import DenseUpdate, LowRankFactors, Mask, Shift

WEIGHT = torch.tensor([[2.0, -4.0], [0.5, 8.0]])


def dense(*rows):
    return DenseUpdate(torch.tensor(rows), bound=1.0)


def test_mask_scales_by_one_plus_d_in_its_box():
    edited = Mask().edited(WEIGHT, dense([0.0, -0.25], [-1.0, 0.7]))
    assert edited.tolist() == [[2.0, -3.0], [0.0, 8.0]]


def test_mask_beyond_the_bound_removes_and_never_flips_a_weight():
    assert not Mask().edited(WEIGHT, DenseUpdate(torch.full((2, 2), -5.0))).any()


def test_shift_adds_limit_times_d():
    edited = Shift(0.5).edited(WEIGHT, dense([1.0, -1.0], [0.5, 0.0]))
    assert edited.tolist() == [[2.5, -4.5], [0.75, 8.0]]


@pytest.mark.parametrize(
    ("operator", "added"), [(Shift(), 1.0), (Shift(2.0), 2.0), (Shift(3.0), 3.0)]
)
def test_shift_adds_the_update_itself_unless_told_how_much(operator, added):
    update = dense([1.0, -1.0], [0.5, 0.0])
    assert torch.equal(operator.edited(WEIGHT, update), WEIGHT + added * update.d)
    assert torch.equal(operator.delta(update), added * update.d)


def test_gradient_of_the_mask_is_the_weight_up_to_no_edit_and_nothing_beyond():
    d = torch.tensor([[0.0, -0.5], [0.5, -2.0]], requires_grad=True)
    Mask().edited(WEIGHT, DenseUpdate(d)).sum().backward()
    assert d.grad.tolist() == [[2.0, -4.0], [0.0, 0.0]]


def test_an_update_that_is_nan_is_seen_in_the_weight():
    nan = DenseUpdate(torch.tensor([[float("nan"), 0.0], [0.0, 0.0]]))
    assert Mask().edited(WEIGHT, nan).isnan().tolist() == [[True, False], [False, False]]


def test_operators_are_equal_by_value():
    assert Mask() == Mask()
    assert Shift(0.1) == Shift(0.1) != Shift(0.2)


def test_shift_moves_no_weight_by_more_than_its_limit():
    huge = LowRankFactors(torch.full((2, 2), 1.0), torch.full((2, 2), 1.0), scale=1.0, bound=1.0)
    torch.testing.assert_close(Shift(0.05).edited(WEIGHT, huge) - WEIGHT, torch.full((2, 2), 0.05))


@pytest.mark.parametrize("operator", [Mask(), Shift(0.05)])
def test_zero_update_is_no_edit(operator):
    assert torch.equal(operator.edited(WEIGHT, dense([0.0, 0.0], [0.0, 0.0])), WEIGHT)


@pytest.mark.parametrize("operator", [Mask(), Shift(0.05)])
def test_candidates_are_edited_each_by_its_own_update(operator):
    weights, d = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    together = operator.edited(weights, DenseUpdate(d, 1.0))
    for i in range(3):
        assert torch.equal(together[i], operator.edited(weights[i], DenseUpdate(d[i], 1.0)))


@pytest.mark.parametrize("limit", [0.0, -0.05, float("nan"), float("inf")])
def test_shift_limit_must_be_positive_and_finite(limit):
    with pytest.raises(ValueError, match="shift_limit must be greater than 0 and finite"):
        Shift(limit)
