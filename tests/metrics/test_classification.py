"""Accuracy and the size of an edit, against numbers worked out by hand."""

import math

import pytest
import torch

from editgym.metrics.classification import accuracy, right_class, weights_changed


def test_accuracy_by_hand():
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 2.0], [0.0, 0.0, 5.0], [0.0, 4.0, 1.0]])
    assert accuracy(logits, torch.tensor([1, 0, 0, 2])) == 0.5
    assert math.isnan(accuracy(logits[:0], torch.tensor([], dtype=torch.long)))


def test_weights_changed_by_hand():
    before, after = torch.tensor([3.0, 4.0, 0.0, 0.0]), torch.tensor([3.0, 1.0, 0.0, 4.0])
    untouched, counter = torch.full((2, 3), 5.0), torch.tensor([7])
    share, norm = weights_changed(
        [(before, after), (counter, counter + 1)], [before, untouched, counter]
    )
    assert share == 2 / 10  # the counter is no weight
    assert norm == pytest.approx(5 / math.sqrt(25 + 6 * 25))


def test_weights_changed_adds_up_over_tensors():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([[2.0], [4.0]])
    share, norm = weights_changed([(one, one + 1), (other, other * 2)], [one, other])
    assert share == 1
    assert norm == pytest.approx(math.sqrt((1 + 1 + 4 + 16) / (1 + 4 + 4 + 16)))
    assert weights_changed([(one, one)], [one, other]) == (0, 0)


def test_weights_that_are_all_zero_have_no_relative_change():
    zero = torch.zeros(4)
    assert weights_changed([(zero, torch.tensor([0.0, 1.0, 0.0, 0.0]))], [zero]) == (0.25, 0.0)


def test_right_class_by_hand():
    rows = [[0.0, math.log(3), 0.0], [math.log(6), 0.0, 0.0]]
    logits = torch.tensor([rows] * 4)  # four networks, two samples, three classes
    probability, correct = right_class(logits, torch.tensor([1, 1]))
    torch.testing.assert_close(probability, torch.tensor([[3 / 5, 1 / 8]] * 4))
    assert torch.equal(correct, torch.tensor([[1.0, 0.0]] * 4))
    assert correct.dtype == logits.dtype
    alone = right_class(logits[0], torch.tensor([1, 0]))
    torch.testing.assert_close(alone[0], torch.tensor([3 / 5, 6 / 8]))
    assert alone[1].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("predicted", [0, 1, 2])
def test_only_the_class_itself_is_right_neither_one_below_nor_one_above(predicted):
    logits, labels = torch.eye(3)[[predicted] * 3], torch.arange(3)
    assert accuracy(logits, labels) == pytest.approx(1 / 3)
    correct = right_class(logits, labels)[1]
    assert correct.tolist() == [float(label == predicted) for label in range(3)]


def test_a_tensor_of_two_names_counts_once():
    tied, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    pairs = [(tied, tied + 1), (tied.detach(), tied + 1)]
    share, norm = weights_changed(pairs, [tied, tied.detach(), other])
    assert share == 2 / 4
    assert norm == pytest.approx(math.sqrt(2 / 9))
    shared = torch.arange(4.0)
    halves = [(shared[:2], shared[:2] + 1), (shared[2:], shared[2:])]  # two of one storage
    assert weights_changed(halves, [shared[:2], shared[2:]])[0] == 1 / 2


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_right_class_is_counted_in_float32(kind):
    logits, labels = torch.randn(5, 3).to(kind), torch.arange(5) % 3
    found, expected = right_class(logits, labels), right_class(logits.float(), labels)
    assert all(map(torch.equal, found, expected))
