import pytest
import torch
from numpy.random import RandomState

from editgym.weights import ActionLayout, DenseUpdate, LowRankFactors

SHAPES = ((3, 5), (4, 2))


@pytest.mark.parametrize(("rank", "size"), [(1, 8 + 6), (2, 16 + 12), ("full", 15 + 8)])
def test_action_size(rank, size):
    assert ActionLayout(SHAPES, rank).size == size


def test_action_is_a_then_b_of_every_site_raveled_in_c_order():
    first, second = ActionLayout(SHAPES, rank=2).unpack(torch.arange(28.0))
    assert first.a.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert first.b.tolist() == [[6, 7, 8, 9, 10], [11, 12, 13, 14, 15]]
    assert second.a.tolist() == [[16, 17], [18, 19], [20, 21], [22, 23]]
    assert second.b.tolist() == [[24, 25], [26, 27]]


def test_full_action_is_the_update_itself():
    first, second = ActionLayout(SHAPES, rank="full").unpack(torch.arange(23.0) / 23)
    assert torch.equal(first.matrix(), torch.arange(15.0).view(3, 5) / 23)
    assert torch.equal(second.matrix(), torch.arange(15.0, 23.0).view(4, 2) / 23)


def test_full_action_is_clipped_to_one():
    (update,) = ActionLayout(((2, 2),), rank="full").unpack(torch.tensor([1.5, -1.5, 3.0, 0.5]))
    assert update.matrix().tolist() == [[1.0, -1.0], [1.0, 0.5]]


def test_rank_is_four_unless_asked():
    assert ActionLayout(((6, 5),)).size == 4 * (6 + 5)


def test_update_is_the_product_over_root_rank_clipped_to_one():
    (update,) = ActionLayout(((1, 2),), rank=1).unpack(torch.tensor([0.5, 0.5, -0.25]))
    assert update.matrix().tolist() == [[0.25, -0.125]]
    (update,) = ActionLayout(((4, 4),), rank=4).unpack(torch.full((32,), 0.5))
    torch.testing.assert_close(update.matrix(), torch.full((4, 4), 4 * 0.25 / 2))
    (update,) = ActionLayout(((4, 4),), rank=4).unpack(torch.ones(32))
    assert torch.equal(update.matrix(), torch.ones(4, 4)), "4 / 2 is clipped to 1"


@pytest.mark.parametrize("rank", [1, 2, "full"])
@pytest.mark.parametrize("lead", [(), (1,), (3,)])
@pytest.mark.parametrize("origin", ["zero", "lora"])
def test_pack_inverts_unpack(rank, lead, origin):
    layout = ActionLayout(SHAPES, rank, origin)
    actions = torch.randn(*lead, layout.size)
    updates = layout.unpack(actions)
    if origin == "zero":
        assert torch.equal(layout.pack(updates), actions)
    torch.testing.assert_close(layout.pack(updates), actions)
    assert [update.shape for update in updates] == [torch.Size((*lead, *shape)) for shape in SHAPES]


def test_actions_are_offsets_from_the_same_random_factors_everywhere():
    layout, moved = ActionLayout(SHAPES, 2, "lora"), torch.arange(28.0)
    starts, plain = layout.unpack(torch.zeros(28)), ActionLayout(SHAPES, 2).unpack(moved)
    assert torch.cat([start.a.flatten() for start in starts]).tolist() == pytest.approx(
        list((0.5 * RandomState(20260613).standard_normal(14)).clip(-1, 1)), abs=1e-6
    )
    for start, offset, update in zip(starts, plain, layout.unpack(moved), strict=True):
        assert not start.b.any()
        assert not start.matrix().any()
        torch.testing.assert_close(update.a, start.a + offset.a)
        assert torch.equal(update.b, offset.b)
    large = ActionLayout(((500, 3),), 2, "lora").unpack(torch.zeros(1006))[0].a
    assert large.abs().max() == 1
    assert 0.4 < large.std() < 0.55


def test_whole_matrix_has_no_origin():
    action = torch.randn(23)
    assert torch.equal(
        torch.cat([u.d.flatten() for u in ActionLayout(SHAPES, "full", "lora").unpack(action)]),
        action,
    )


@pytest.mark.parametrize("origin", ["Zero", "", None, 0])
def test_unknown_origin_is_an_error(origin):
    with pytest.raises(ValueError, match='origin must be "zero" or "lora", got '):
        ActionLayout(SHAPES, 2, origin)


@pytest.mark.parametrize("rank", [0, -1, 3, 1.0, True, "half", None])
def test_rank_that_no_site_has_is_an_error(rank):
    with pytest.raises(ValueError, match=r"rank must be \"full\" or an integer from 1 to 2"):
        ActionLayout(SHAPES, rank)


def test_candidates_are_what_each_would_be_alone():
    layout = ActionLayout(SHAPES, rank=2)
    actions = torch.randn(3, layout.size)
    together = layout.unpack(actions)
    for i in range(3):
        for batched, alone in zip(together, layout.unpack(actions[i]), strict=True):
            torch.testing.assert_close(batched.matrix()[i], alone.matrix())
            assert torch.equal(batched.candidate(i).matrix(), alone.matrix())


@pytest.mark.parametrize("shape", [(32, 128), (5, 3), (1, 9)])
def test_one_candidate_is_bitwise_what_it_is_alone(shape):
    """A product of batches rounds otherwise, in small shapes at least."""
    layout = ActionLayout((shape,), rank=min(4, *shape))
    action = torch.randn(1, layout.size)
    assert torch.equal(layout.unpack(action)[0].matrix()[0], layout.unpack(action[0])[0].matrix())


@pytest.mark.parametrize(
    "update",
    [
        LowRankFactors(torch.ones(2, 3, 1), torch.ones(2, 1, 4), 0.5, 1.0),
        DenseUpdate(torch.ones(2, 3, 4), 1.0),
    ],
)
def test_candidate_outlives_its_batch(update):
    kept = update.candidate(1)
    before = kept.matrix().clone()
    for tensor in (update.a, update.b) if isinstance(update, LowRankFactors) else (update.d,):
        tensor.zero_()
    assert torch.equal(kept.matrix(), before)


@pytest.mark.parametrize("ranks", [(2, 4), (4, 2)])
def test_factors_of_different_ranks_are_an_error(ranks):
    with pytest.raises(ValueError, match="of one r"):
        LowRankFactors(torch.ones(3, ranks[0]), torch.ones(ranks[1], 5))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, -0.5])
def test_a_product_is_scaled(scale):
    update = LowRankFactors(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0, 4.0]]), scale)
    assert update.matrix().tolist() == [[2 * scale, 4 * scale], [6 * scale, 12 * scale]]


def test_update_without_a_bound_is_not_clipped():
    assert LowRankFactors(torch.full((2, 1), 3.0), torch.ones(1, 2), scale=2.0).matrix().max() == 6
    assert DenseUpdate(torch.full((2, 2), 3.0)).matrix().max() == 3
    assert DenseUpdate(torch.full((2, 2), -3.0), bound=0.5).matrix().min() == -0.5


@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_sum_has_the_ranks_and_the_scales_of_both(lead):
    one = LowRankFactors(torch.randn(*lead, 4, 2), torch.randn(*lead, 2, 5), scale=0.5)
    other = LowRankFactors(torch.randn(*lead, 4, 3), torch.randn(*lead, 3, 5), scale=-2.0)
    both = one.plus(other)
    assert (both.a.shape[-1], both.scale, both.bound) == (5, 1.0, None)
    torch.testing.assert_close(both.matrix(), one.matrix() + other.matrix())
    nothing = LowRankFactors(torch.zeros(*lead, 4, 0), torch.zeros(*lead, 0, 5))
    torch.testing.assert_close(nothing.plus(one).matrix(), one.matrix())


def test_gradients_reach_both_parts_of_a_sum():
    parts = [torch.randn(shape, requires_grad=True) for shape in ((4, 2), (2, 5), (4, 1), (1, 5))]
    both = LowRankFactors(parts[0], parts[1], scale=0.5).plus(LowRankFactors(parts[2], parts[3]))
    found = torch.autograd.grad(both.matrix().square().sum(), parts)
    expected = torch.autograd.grad(
        (0.5 * parts[0] @ parts[1] + parts[2] @ parts[3]).square().sum(), parts
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_clipped_updates_have_no_sum():
    free = LowRankFactors(torch.ones(2, 1), torch.ones(1, 3))
    clipped = LowRankFactors(torch.ones(2, 1), torch.ones(1, 3), bound=1.0)
    for one, other in ((free, clipped), (clipped, free)):
        with pytest.raises(
            ValueError, match=r"clipped updates have no sum in factors: bounds (None|1\.0) and"
        ):
            one.plus(other)
