"""Whose tokens a module is given, in a batch's shape and in one row."""

import pytest
import torch

from editgym.weights import TokenBatch, UnknownSiteError
from editgym.weights.language.given import at_answers, by_text, check_inputs

BATCH = TokenBatch.of([([1, 2], [3]), ([4], [5, 6])])  # 2 texts of 3 tokens, 3 answer tokens


def test_the_heads_rows_are_answers_already():
    x = torch.arange(18.0).view(2, 3, 3)
    assert torch.equal(at_answers(x, BATCH), torch.stack([x[0, 1], x[1, 0], x[1, 1]]))
    assert torch.equal(at_answers(x[0], BATCH), x[0])


@pytest.mark.parametrize("shape", [(6, 3), (1, 6, 3), (2, 1, 3, 3)])
def test_tokens_in_one_row_are_those_of_the_texts_in_order(shape):
    x = torch.arange(18.0).view(2, 3, 3)
    assert torch.equal(by_text(x.view(shape), BATCH.ids.shape), x)
    assert torch.equal(at_answers(x.view(shape), BATCH), at_answers(x, BATCH))


def test_another_number_of_tokens_is_refused():
    with pytest.raises(UnknownSiteError, match=r"given 5 tokens of 2 texts of 3 .* an expert"):
        by_text(torch.zeros(5, 3), BATCH.ids.shape)


def check(x, alone):
    check_inputs(["site"], {"site": x}, {} if alone is None else {"site": alone}, BATCH, None)


def test_order_is_seen_by_a_text_alone():
    x = torch.arange(18.0).view(2, 3, 3)
    for every, last in ((x, x[1:]), (x.view(6, 3), x[1]), (x.view(2, 1, 3, 3), x[1:, None])):
        check(every, last)
    by_place = x.transpose(0, 1).reshape(6, 3)  # the first tokens of all texts, then the second
    wrong = [(by_place, x[1]), (x.view(6, 3), x[0]), (x.view(6, 3), x[1, :2]), (x.view(6, 3), None)]
    for every, last in (*wrong, (x[1], x[1]), (x.transpose(0, 1), x[1])):
        with pytest.raises(
            UnknownSiteError, match=r"site: it is given tokens .* \(2, 3\), and not"
        ):
            check(every, last)


def test_of_the_head_nothing_is_known():
    check_inputs(["head"], {"head": torch.zeros(3, 3)}, {}, BATCH, "head")
