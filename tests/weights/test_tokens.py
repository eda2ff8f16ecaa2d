"""Batches of texts, by hand."""

import pytest
import torch

from editgym.weights import TokenBatch

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
    assert batch.content(END).tolist() == [True, False, True, True, True, False]
    assert batch.content(100).all()


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
