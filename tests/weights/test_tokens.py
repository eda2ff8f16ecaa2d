"""Batches of texts, by hand."""

import pytest
import torch

from editgym.weights import TokenBatch
from editgym.weights.language.tokens import by_length

END = 9


@pytest.fixture
def batch():
    """Three texts: answers of two tokens, of the end token alone, and of three tokens."""
    return TokenBatch.of([([5, 6, 7], [1, END]), ([4], [END]), ([3, 2], [8, 1, END])])


def test_a_batch_by_hand(batch):
    assert batch.ids.tolist() == [[5, 6, 7, 1, END], [4, END, 0, 0, 0], [3, 2, 8, 1, END]]
    assert batch.rows.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.positions.tolist() == [2, 3, 0, 1, 2, 3]  # one before each answer token
    assert batch.labels.tolist() == [1, END, END, 8, 1, END]
    assert len(batch) == 3


def test_what_precedes_an_answer_token_is_before_it_in_the_text(batch):
    assert torch.equal(batch.ids[batch.rows, batch.positions + 1], batch.labels)


@pytest.mark.parametrize("texts", [[], [([], [1])], [([1], [])], [([1], [2]), ([1], [])]])
def test_empty_texts_are_refused(texts):
    with pytest.raises(ValueError, match="none of them empty"):
        TokenBatch.of(texts)


def test_means_are_over_a_texts_own_tokens(batch):
    values = torch.tensor([1.0, 3.0, 5.0, 1.0, 2.0, 6.0])
    assert batch.means(values).tolist() == [2, 5, 3]
    kept = torch.tensor([True, False, True, False, True, True])
    assert batch.means(values, kept).tolist() == [1, 5, 4]
    several = torch.stack([values, -values]).unsqueeze(0)
    assert batch.means(several).tolist() == [[[2, 5, 3], [-2, -5, -3]]]
    assert batch.means(several, kept).tolist() == [[[1, 5, 4], [-1, -5, -4]]]


def test_content_is_all_but_the_end_unless_there_is_nothing_else(batch):
    assert batch.content([END]).tolist() == [True, False, True, True, True, False]
    assert batch.content([100]).all()
    assert batch.content([1, END]).tolist() == [True, True, True, True, False, False]
    assert batch.content([]).all()


def test_costs_are_means_by_the_weights_of_tokens(batch):
    costs = torch.tensor([1.0, 3.0, 5.0, 1.0, 2.0, 6.0])
    assert batch.weights is None
    assert torch.equal(batch.mean_costs(costs), batch.means(costs))
    assert batch.token_weights.tolist() == [1] * 6
    texts = [([5, 6, 7], [1, END]), ([4], [END]), ([3, 2], [8, 1, END])]
    weighted = TokenBatch.of(texts, weights=[[1.0, 0.5], [0.25], [1.0, 1.0, 0.0]])
    assert weighted.weights is weighted.token_weights
    assert weighted.weights.tolist() == [1, 0.5, 0.25, 1, 1, 0]
    assert weighted.mean_costs(costs).tolist() == pytest.approx([2.5 / 1.5, 5, 1.5])
    several = torch.stack([costs, -costs]).unsqueeze(0)
    assert weighted.mean_costs(several)[0, 1].tolist() == pytest.approx([-2.5 / 1.5, -5, -1.5])
    assert weighted.means(costs).tolist() == [2, 5, 3], "a mean of anything else has no weights"


def test_joined_batches_keep_their_weights(batch):
    weighted = TokenBatch.of([([7], [7, 8])], weights=[[1.0, 0.5]])
    assert TokenBatch.join([batch, weighted]).weights.tolist() == [1] * 6 + [1, 0.5]
    assert TokenBatch.join([weighted, batch]).weights.tolist() == [1, 0.5] + [1] * 6
    assert TokenBatch.join([batch, batch]).weights is None


def test_texts_of_about_one_length_go_together():
    assert by_length([], 10) == []
    assert by_length([3, 5, 2], 15) == [[0, 1, 2]], "all fit, in their order"
    assert by_length([3, 5, 2], 14) == [[2, 0], [1]]
    assert by_length([5, 1, 5, 1, 5], 10) == [[1, 3], [0, 2], [4]]
    assert by_length([20, 1], 10) == [[1], [0]], "a text that is too long is alone"
    assert by_length([4, 4, 4], 8) == [[0, 1], [2]]


def test_all_of_holds_where_every_token_does(batch):
    values = torch.tensor([True, True, False, True, False, True])
    assert batch.all_of(values).tolist() == [True, False, False]
    assert batch.all_of(torch.stack([values, ~values])).tolist() == [
        [True, False, False],
        [False, True, False],
    ]


def test_joined_batches_are_the_batch_of_all_texts(batch):
    other = TokenBatch.of([([7], [7, 7, 7, 7, 7, 7]), ([1, 2], [3])])
    joined = TokenBatch.join([other, batch, other])
    pair = [([7], [7, 7, 7, 7, 7, 7]), ([1, 2], [3])]
    expected = TokenBatch.of(
        [*pair, ([5, 6, 7], [1, END]), ([4], [END]), ([3, 2], [8, 1, END]), *pair]
    )
    for part in ("ids", "rows", "positions", "labels"):
        assert torch.equal(getattr(joined, part), getattr(expected, part))


def test_some_texts_are_the_batch_of_them_alone(batch):
    texts = [([5, 6, 7], [1, END]), ([4], [END]), ([3, 2], [8, 1, END])]
    assert batch.lengths == [5, 2, 5]
    for rows in ([0], [2, 1], [1, 0, 2], [1]):
        taken, expected = batch.take(rows), TokenBatch.of([texts[row] for row in rows])
        for part in ("ids", "rows", "positions", "labels"):
            assert torch.equal(getattr(taken, part), getattr(expected, part))
        assert torch.equal(batch.labels[batch.tokens(rows)], expected.labels)
        assert taken.weights is None
    weights = [[1.0, 0.5], [0.25], [1.0, 1.0, 0.0]]
    weighted = TokenBatch.of(texts, weights=weights)
    assert weighted.take([2, 1]).weights.tolist() == [1, 1, 0, 0.25]
