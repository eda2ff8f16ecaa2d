"""The last layer is found, and the choice of another one keeps the tolerance."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agents.debiasing.last_layer import HeadOfNetwork, Point, best_within
from agents.protocol import Unsupported
from editgym.data.images import Labelled
from editgym.weights import EditableNetwork, find_sites


def test_choice_keeps_the_tolerance_and_beats_no_edit():
    points = {
        "costly": Point(0.85, 0.9),
        "best": Point(0.895, 0.7),
        "good": Point(0.95, 0.65),
        "worse": Point(0.9, 0.5),
    }

    def choose(*names):
        return best_within(Point(0.9, 0.6), names, points.__getitem__, 0.01)

    assert choose("costly", "good", "best", "worse") == "best"
    assert choose("good") == "good"
    assert choose("costly", "worse") is None
    assert choose() is None


def test_head_is_found_and_checked():
    class Head2(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.body, self.out, self.scale = nn.Linear(3, 4), nn.Linear(4, 2), scale

        def forward(self, x):
            return self.scale * self.out(F.relu(self.body(x)))

    x = torch.randn(5, 3)
    network = EditableNetwork(Head2(1.0), find_sites(Head2(1.0), ["out"]), x)
    own = HeadOfNetwork(network, x)
    assert own.site == "out"
    seen = own.features(Labelled(x, torch.zeros(5)))
    assert torch.allclose(seen.x, F.relu(network.base.body(x)))
    assert torch.allclose(own.head.logits(seen.x), network.logits(x), atol=1e-6)
    doubled = EditableNetwork(Head2(2.0), find_sites(Head2(2.0), ["out"]), x)
    with pytest.raises(Unsupported, match="does not give its two logits"):
        HeadOfNetwork(doubled, x)
