"""Closed-form updates against the textbook form of the same algebra."""

import numpy as np
import pytest
import torch

from editgym.weights import LowRankFactors
from editgym.weights.closed_form import (
    RunningStandardization,
    UltraEdit,
    least_squares,
    principal_directions,
)


def doubles(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def running(size):
    """Statistics in double precision, so that what is compared is the formula."""
    standard = RunningStandardization(size)
    standard.mean, standard.squares = standard.mean.double(), standard.squares.double()
    return standard


# --- running standardisation ----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[20], [7, 1, 12], [1] * 20])
def test_running_statistics_are_those_of_two_passes_over_all_rows(sizes):
    rows = 3 + 5 * doubles(20, 6)
    standard = running(6)
    for part in rows.split(sizes):
        standard.update(part)
    expected = (rows - rows.mean(0)) / rows.std(0)  # with n − 1
    torch.testing.assert_close(standard(rows), expected, rtol=1e-10, atol=1e-10)


def test_statistics_of_large_numbers_do_not_cancel():
    rows = 1e6 + doubles(200, 3)
    standard = running(3)
    for part in rows.split(10):
        standard.update(part)
    torch.testing.assert_close(
        standard(rows), (rows - rows.mean(0)) / rows.std(0), rtol=1e-6, atol=1e-6
    )


def test_one_row_and_a_feature_that_never_varies_give_zeros_and_no_nan():
    standard = RunningStandardization(4)
    row = torch.tensor([[1.0, -2.0, 0.0, 3e4]])
    assert torch.isfinite(standard(row)).all(), "before any row"
    standard.update(row)
    assert torch.equal(standard(row), torch.zeros(1, 4))
    standard.update(torch.tensor([[1.0, 5.0, 0.0, 3e4]]))
    now = standard(row)
    assert torch.isfinite(now).all()
    assert now[0, [0, 2, 3]].abs().max() == 0
    assert now[0, 1] != 0


def test_a_feature_hardly_varies_at_a_millionth_of_the_others():
    rows = doubles(50, 3)
    standard = running(3)
    sizes = torch.tensor([1.0, 1e-5, 1e-8], dtype=torch.float64)
    standard.update(rows * sizes)
    found = standard(rows * sizes)
    expected = (rows - rows.mean(0)) / rows.std(0)
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=1e-6, atol=1e-6)
    assert found[:, 2].abs().max() < 1e-7  # not divided


@pytest.mark.parametrize("n", [2, 3, 40])
def test_no_row_is_further_away_than_one_that_was_seen_can_be(n):
    standard = running(2)
    outlier = torch.zeros(n, 2, dtype=torch.float64)
    outlier[0, 0] = 1.0  # as far from the mean as one of n rows can be
    outlier[:, 1] = 1e-4 * doubles(n)
    standard.update(outlier)
    limit = (n - 1) / n**0.5
    assert float(standard(outlier)[0, 0]) == pytest.approx(limit)
    assert standard(torch.full((1, 2), 1e3, dtype=torch.float64)) == pytest.approx(limit, rel=1e-5)


def test_statistics_survive_their_state_and_do_not_share_it():
    standard, again = RunningStandardization(5), RunningStandardization(5)
    standard.update(torch.randn(6, 5))
    state = standard.state_dict()
    standard.update(torch.randn(6, 5))
    again.load_state_dict(state)
    assert again.count == 6
    again.update(torch.ones(1, 5))
    assert state["count"] == 6
    assert not torch.equal(again.mean, state["mean"])


# --- least squares --------------------------------------------------------------------------------


def dense_least_squares(values, keys, ridge):
    """V Kᵀ (K Kᵀ + λI)⁻¹ with K (in, n) and V (out, n), by the in × in inverse."""
    v, k = values.mT, keys.mT
    return v @ k.mT @ torch.linalg.inv(k @ k.mT + ridge * torch.eye(len(k), dtype=k.dtype))


@pytest.mark.parametrize(("n", "d"), [(3, 17), (17, 17), (40, 17), (1, 5)])
@pytest.mark.parametrize("ridge", [0.3, 1.0])
def test_least_squares_is_the_dense_solve(n, d, ridge):
    values, keys = doubles(n, 9, seed=1), doubles(n, d, seed=2)
    update = least_squares(values, keys, ridge)
    assert update.shape == (9, d)
    assert update.a.shape[1] == n
    torch.testing.assert_close(
        update.matrix(), dense_least_squares(values, keys, ridge), rtol=1e-10, atol=1e-10
    )


def test_gradients_flow_through_the_solve_to_values_keys_and_ridge():
    values, keys = doubles(4, 6, seed=1).requires_grad_(), doubles(4, 5, seed=2).requires_grad_()
    ridge = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda v, k, r: least_squares(v, k, r).matrix(), (values, keys, ridge)
    )
    assert (
        torch.autograd.grad(least_squares(values, keys, ridge).matrix().square().sum(), ridge)[0]
        != 0
    )


# --- UltraEdit ------------------------------------------------------------------------------------


def test_ultraedit_is_its_formula_over_a_stream():
    editor = UltraEdit((6, 11))
    for side in (editor.keys, editor.gradients):
        side.mean, side.squares = side.mean.double(), side.squares.double()
    all_keys, all_gradients = 2 + doubles(12, 11, seed=3), 0.1 * doubles(12, 6, seed=4)
    for start in (0, 4, 8):
        keys, gradients = all_keys[start : start + 4], all_gradients[start : start + 4]
        seen_keys, seen_gradients = all_keys[: start + 4], all_gradients[: start + 4]
        key_hat = (keys - seen_keys.mean(0)) / seen_keys.std(0)
        gradient_hat = (gradients - seen_gradients.mean(0)) / seen_gradients.std(0)
        values = torch.stack([-0.5 * k @ k * g for k, g in zip(key_hat, gradient_hat, strict=True)])
        expected = dense_least_squares(values, keys, 1.0)
        torch.testing.assert_close(
            editor.update(keys, gradients, 0.5).matrix(), expected, rtol=1e-9, atol=1e-12
        )


def test_ultraedit_on_a_single_token_is_no_edit_and_no_nan():
    editor = UltraEdit((6, 11))
    update = editor.update(torch.randn(1, 11), torch.randn(1, 6), 1.0)
    assert torch.equal(update.matrix(), torch.zeros(6, 11))
    assert torch.isfinite(principal_directions(update).matrix()).all()
    assert editor.update(torch.randn(1, 11), torch.randn(1, 6), 1.0).matrix().abs().max() > 0


def test_ultraedit_goes_on_from_its_state():
    one, other = UltraEdit((3, 5)), UltraEdit((3, 5))
    first, second = (torch.randn(4, 5), torch.randn(4, 3)), (torch.randn(4, 5), torch.randn(4, 3))
    one.update(*first, 1.0)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.update(*second, 1.0).matrix(), other.update(*second, 1.0).matrix())


def test_directions_of_what_is_not_finite_say_so():
    with pytest.raises(FloatingPointError, match="keys or output gradients are not finite"):
        principal_directions(LowRankFactors(torch.full((4, 2), float("inf")), torch.ones(2, 3)))


# --- principal directions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "n", "columns"), [(12, 7, 20), (6, 30, 9), (20, 4, 8), (20, 12, 9)]
)
def test_principal_directions_are_the_svd_of_the_product(rows, n, columns):
    update = LowRankFactors(doubles(rows, n, seed=5), doubles(n, columns, seed=6), scale=0.3)
    found = principal_directions(update)
    u, sigma, vh = np.linalg.svd(update.matrix().numpy(), full_matrices=False)
    count = min(rows, n, columns)
    assert found.a.shape == (rows, count)
    assert found.a.norm(dim=0).numpy() == pytest.approx(sigma[:count], rel=1e-10)
    assert found.b.norm(dim=1).numpy() == pytest.approx(np.ones(count))
    for j in range(count):
        expected = sigma[j] * np.outer(u[:, j], vh[j])
        assert torch.outer(found.a[:, j], found.b[j]).numpy() == pytest.approx(expected, abs=1e-9)
    assert (found.a.gather(0, found.a.abs().argmax(0, keepdim=True)) > 0).all(), (
        "the sign convention"
    )
    torch.testing.assert_close(found.matrix(), update.matrix())


def test_directions_do_not_depend_on_the_signs_of_the_factors():
    a, b = doubles(8, 3, seed=7), doubles(3, 10, seed=8)
    one = principal_directions(LowRankFactors(a, b))
    other = principal_directions(LowRankFactors(-a, -b))
    torch.testing.assert_close(one.a, other.a)
    torch.testing.assert_close(one.b, other.b)


def test_directions_that_are_not_there_are_nothing():
    a, b = doubles(8, 2, seed=7), doubles(2, 10, seed=8)
    found = principal_directions(LowRankFactors(torch.cat([a, a], 1), torch.cat([b, b])))
    assert found.a[:, 2:].abs().max() < 1e-12
    torch.testing.assert_close(found.matrix(), 2 * a @ b)


def test_all_directions_of_nothing_are_zero():
    found = principal_directions(LowRankFactors(torch.zeros(5, 6), torch.randn(6, 7)))
    assert not found.matrix().any()
    torch.testing.assert_close(found.b @ found.b.mT, torch.eye(5))


def test_the_unit_of_gradients_changes_no_update_of_ultraedit():
    torch.manual_seed(0)
    keys, gradients = torch.randn(20, 6), torch.randn(20, 4)
    usual = UltraEdit((4, 6)).update(keys, gradients, 1.0)
    tiny = UltraEdit((4, 6)).update(keys, 1e-9 * gradients, 1.0)
    torch.testing.assert_close(tiny.a @ tiny.b, usual.a @ usual.b, rtol=1e-3, atol=1e-6)


def test_rows_that_are_not_finite_leave_the_statistics_as_they_were():
    torch.manual_seed(0)
    rows = torch.randn(8, 3)
    clean, spoilt = RunningStandardization(3), RunningStandardization(3)
    clean.update(rows)
    spoilt.update(
        torch.cat(
            [rows[:5], torch.tensor([[0.0, torch.nan, 1.0], [torch.inf, 0.0, 0.0]]), rows[5:]]
        )
    )
    spoilt.update(torch.full((2, 3), torch.nan))
    assert spoilt.count == 8
    assert torch.equal(clean(rows), spoilt(rows))


def test_after_one_row_others_are_held_within_one():
    standard = running(2)
    standard.update(torch.zeros(1, 2, dtype=torch.float64))
    found = standard(torch.tensor([[9.0, -9.0]], dtype=torch.float64))
    assert found.tolist() == [pytest.approx([1.0, -1.0], rel=1e-5)]


def test_directions_that_the_factors_do_not_span_have_no_rows_either():
    a, b = doubles(8, 2, seed=7), doubles(2, 10, seed=8)
    found = principal_directions(LowRankFactors(torch.cat([a, a, a], 1), torch.cat([b, b, b])))
    assert found.b[2:].abs().max() < 1e-13, "not what rounding leaves of them, made large"


def test_keys_beside_which_the_ridge_is_nothing_are_an_error_that_says_so():
    with pytest.raises(FloatingPointError, match=r"keys reach 1.0e\+06, and K Kᵀ .* is singular"):
        least_squares(torch.ones(2, 4), torch.full((2, 8), 1e6))
