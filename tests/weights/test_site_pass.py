"""What a pass does at a site, by hand: codebooks, updates, injected values."""

import pytest
import torch

from editgym.weights import Codebook, DenseUpdate, EditSite, LowRankFactors
from editgym.weights.language.site_pass import (
    Difference,
    Injection,
    candidates_of,
    check_codebook,
    edited_output,
    looked_up,
    product,
    with_injection,
)

SITE = EditSite("fc", "linear", (3, 2))


def code(keys=(4, 2), values=(4, 3), radii=(4,)):
    return Codebook("fc", torch.zeros(keys), torch.zeros(values), torch.zeros(radii))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_a_codebook_that_fits_its_site_is_taken(n):
    check_codebook(code((n, 2), (n, 3), (n,)), SITE)


@pytest.mark.parametrize(
    "shapes",
    [
        {"keys": (4, 1)},
        {"keys": (4, 3)},
        {"keys": (4,)},
        {"keys": (4, 2, 1)},
        {"values": (4, 2)},
        {"values": (4, 4)},
        {"values": (4,)},
        {"values": (4, 3, 1)},
        {"keys": (3, 2)},
        {"keys": (5, 2)},
        {"values": (3, 3)},
        {"values": (5, 3)},
        {"radii": (3,)},
        {"radii": (5,)},
    ],
)
def test_a_codebook_of_other_shapes_is_refused(shapes):
    with pytest.raises(ValueError, match=r"codebook: fc takes keys \(n, 2\), values \(n, 3\)"):
        check_codebook(code(**shapes), SITE)


def test_a_key_holds_up_to_its_radius_and_the_nearest_one_decides():
    keys = torch.tensor([[0.0, 0.0], [10.0, 0.0], [3.0, 3.0]])
    values = torch.tensor([[1.0], [2.0], [3.0]])
    book = Codebook("fc", keys, values, torch.tensor([5.0, 1.0, 0.5]))
    x = torch.tensor([[[-3.0, -4.0], [-3.0, -4.1], [9.0, 0.0], [8.9, 0.0], [3.0, 2.4]]])
    out = torch.full((1, 5, 1), -7.0)
    # At the radius; beyond it; at another's; beyond that; nearest to a key with a smaller radius.
    assert looked_up(x, out, book).flatten().tolist() == [1.0, -7.0, 2.0, -7.0, -7.0]


def test_products_of_candidates_are_each_ones_own():
    a, b, x = torch.randn(2, 3, 1), torch.randn(2, 1, 4), torch.randn(6, 5, 4)
    found = product(x, LowRankFactors(a, b, scale=0.5))
    expected = torch.cat([0.5 * x[3 * k : 3 * k + 3] @ (a[k] @ b[k]).mT for k in range(2)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["factors", "dense"])
def test_the_product_of_one_update_is_its_matrix(kind):
    update, x = LowRankFactors(torch.randn(3, 2), torch.randn(2, 4), 0.5), torch.randn(2, 5, 4)
    expected = x @ update.matrix().mT
    update = update if kind == "factors" else DenseUpdate(update.matrix())
    torch.testing.assert_close(product(x, update), expected)


def test_candidates_are_counted_where_there_are_any():
    one = LowRankFactors(torch.ones(3, 1), torch.ones(1, 4))
    four = LowRankFactors(torch.ones(4, 3, 1), torch.ones(4, 1, 4))
    assert candidates_of([]) is None
    assert candidates_of([None, one]) is None
    assert candidates_of([None, one, four]) == 4


def test_injected_values_are_added_in_the_finer_precision():
    out = torch.ones(1, 2, 3, dtype=torch.bfloat16)
    values = torch.full((1, 3), 2**-12)
    injection = Injection(torch.tensor([0]), torch.tensor([1]), values)
    found = with_injection(out, injection, (1, 2))
    assert found.dtype == torch.float32
    assert found.tolist() == [[[1.0] * 3, [1 + 2**-12] * 3]]


def test_values_are_injected_at_their_tokens_also_where_these_are_in_one_row():
    places = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1])
    injection = Injection(*places, torch.arange(1.0, 4.0)[:, None])
    for shape in ((2, 3, 1), (6, 1), (2, 1, 3, 1)):
        found = with_injection(torch.zeros(shape), injection, (2, 3))
        assert found.shape == shape
        assert found.flatten().tolist() == [0, 0, 1, 2, 3, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_edited_output_is_the_base_and_the_edit_beside_it(dtype):
    """A change that half precision would round away in the weight is a product of its own."""
    base, bias = torch.ones(2, 3, dtype=dtype), torch.tensor([0.0, 5.0], dtype=dtype)
    x = torch.tensor([[1.0, -1.0, 3.0]], dtype=dtype)
    change = torch.tensor([[2**-12, 0.0, 0.0], [0.0, 0.0, 2.0]])
    assert edited_output(x, base, None, bias, Difference()).tolist() == [[3.0, 8.0]]
    x[0, 2] = 0
    found = edited_output(x, base, base.float() + change, None, Difference())
    assert found.tolist() == [[2**-12, 0.0]]
    assert found.dtype == dtype


def test_a_difference_is_kept_once_it_is_asked_for_again():
    base, edited = torch.ones(2, 3, dtype=torch.bfloat16), 1 + torch.arange(6.0).view(2, 3) / 1000
    difference = Difference()
    first, second, third = (difference(base, edited) for _ in range(3))
    assert torch.equal(first, (edited - 1).bfloat16())
    assert torch.equal(first, second)
    assert first is not second
    assert second is third


def test_a_difference_with_a_graph_is_made_anew():
    base, edited = torch.ones(2, 3), torch.zeros(2, 3, requires_grad=True)
    difference = Difference()
    for _ in range(3):
        edited.grad = None
        difference(base, edited).sum().backward()
        assert edited.grad.tolist() == [[1.0] * 3] * 2
