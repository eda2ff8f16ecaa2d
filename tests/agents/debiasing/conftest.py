"""A world of a debiasing task, and features whose directions are known."""

import gymnasium as gym
import pytest
import torch

from agents.debiasing.last_layer import Features, Head


@pytest.fixture
def env():
    return gym.make("editgym:ShiftWorld-v0", task="debiasing/templates")


@pytest.fixture
def two_directions():
    """Features whose first number tells the label in general, the second in both sets, and a head
    that uses the first.

    In the unbiased set the first number is the identity, which says nothing.
    """
    generator = torch.Generator().manual_seed(0)
    sets = []
    for first_tells in (True, False):
        y = torch.randint(0, 2, (400,), generator=generator)
        identity = y if first_tells else torch.randint(0, 2, (400,), generator=generator)
        noise = 0.2 * torch.randn(400, 2, generator=generator)
        sets.append(Features(torch.stack([2.0 * identity - 1, 2.0 * y - 1], 1) + noise, y))
    return Head(torch.tensor([[-1.0, 0], [1, 0]]), torch.zeros(2)), tuple(sets)
