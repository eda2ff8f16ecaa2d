"""What these tests share: agents that learned on the tiny model, and comparisons of policies."""

import pytest
import torch

from agents.catalogue import make_agent
from agents.protocol import Budget

QUICK = {"sequences": 2, "validate_every": 0, "learning_rate": 1e-2, "step_learning_rate": 0.1}


@pytest.fixture
def trained(stream_spec):
    """`trained(name, seed, env arguments, **settings)`: an agent that learned on the tiny model."""

    def make(name="rledit", seed=0, env=None, **settings):
        agent = make_agent(name, **QUICK | settings)
        agent.learn(stream_spec(**env or {}), Budget(), seed)
        return agent

    return make


def _same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.fixture
def same():
    """`same(one, other)`: whether two states of a policy are equal bitwise."""
    return _same


def _matrices(journal):
    return [entry.update.matrix() for entry in journal]


@pytest.fixture
def same_edits():
    """`same_edits(one, other)`: whether two journals hold the same updates bitwise."""
    return lambda one, other: (
        len(one) == len(other) and all(map(torch.equal, _matrices(one), _matrices(other)))
    )
