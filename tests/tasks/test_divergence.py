"""Log-probabilities in parts are those of the whole, bit for bit, and take no memory beside it."""

import pytest
import torch

from editgym.tasks.knowledge import divergence
from editgym.tasks.knowledge.divergence import divergences, log_probabilities


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(divergence, "_NUMBERS", 1_000)


def drawn(*shape, dtype=torch.float32):
    return (4 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).to(dtype)


@pytest.mark.parametrize("shape", [(1, 300), (7, 300), (5, 2_000), (0, 300), (3, 4, 300)])
def test_they_are_the_wholes_and_stand_where_the_logits_stood(shape):
    logits = drawn(*shape)
    expected = logits.log_softmax(-1)
    found = log_probabilities(logits)
    assert torch.equal(found, expected)
    assert found.data_ptr() == logits.data_ptr()


def test_half_precision_is_widened_first_and_left_as_it_was():
    logits = drawn(7, 300, dtype=torch.bfloat16)
    before = logits.clone()
    assert torch.equal(log_probabilities(logits), logits.float().log_softmax(-1))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("rows", [0, 1, 10])
def test_a_divergence_is_the_wholes(rows):
    before, after = drawn(rows, 300).log_softmax(-1), drawn(2 * rows, 300)[rows:].log_softmax(-1)
    expected = (before.exp() * (before - after)).sum(-1)
    assert torch.equal(divergences(before, after), expected)
    assert (expected > 0).all()
