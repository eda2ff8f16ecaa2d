"""Steps of a share of the weights' length, by hand."""

import pytest
import torch
from torch import nn

from agents.unlearning.steps import RelativeSGD


def stepped(values, gradients, share=0.1, momentum=0.0, steps=1):
    parameters = [nn.Parameter(torch.tensor(value)) for value in values]
    optimizer = RelativeSGD(parameters, share, momentum)
    for _ in range(steps):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else torch.tensor(gradient)
        optimizer.step()
    return [parameter.detach().tolist() for parameter in parameters]


def test_a_step_is_a_share_of_the_length_against_the_gradient():
    (moved,) = stepped([[3.0, 4.0]], [[0.0, 2.0]])  # length 5
    assert moved == pytest.approx([3.0, 3.5])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_does_not_matter(scale):
    (moved,) = stepped([[3.0, 4.0]], [[0.0, 2.0 * scale]])
    assert moved == pytest.approx([3.0, 3.5])


def test_steps_scale_with_the_weights():
    (small,), (large,) = (stepped([[3.0 * s, 4.0 * s]], [[1.0, 1.0]]) for s in (1.0, 100.0))
    assert large == pytest.approx([100 * value for value in small])


def test_momentum_is_a_mean_over_the_steps():
    # v = 0.5·d, then 0.75·d: together 1.25 · 0.1 · 5
    (moved,) = stepped([[3.0, 4.0]], [[0.0, 1.0]], momentum=0.5, steps=2)
    assert moved == pytest.approx([3.0, 4.0 - 0.625])


def test_a_bias_of_zeros_moves_too_and_what_has_no_gradient_stays():
    # Three numbers, of length 5: a usual one is 5/√3, and a tenth of that counts.
    weight, bias = stepped([[3.0, 4.0], [0.0]], [[0.0, 0.0], [-2.0]])
    assert weight == [3.0, 4.0]
    assert bias == pytest.approx([0.1 * 0.1 * 5 / 3**0.5])
    assert stepped([[1.0]], [None]) == [[1.0]]


def test_a_gradient_that_is_not_finite_moves_nothing():
    assert stepped([[1.0, 2.0]], [[float("nan"), 1.0]]) == [[1.0, 2.0]]
