"""The last linear layer of a classifier is found by what it gives, not by its name or place."""

import torch
from torch import nn

from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.models.heads import features_before, last_linear


class Wrapped(nn.Module):
    """A network whose output is a copy of its last layer's; a later name is not that layer."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x):
        return torch.stack(list(self.head(self.body(x)).unbind(1)), dim=1)


def test_the_last_layer_is_found():
    assert last_linear(SmallConvNet(8), torch.zeros(2, 1, 8, 8)) == "fc3"
    assert last_linear(ResNet20(), torch.zeros(2, 3, 32, 32)) == "linear"
    assert last_linear(Wrapped(), torch.rand(2, 3)) == "head"


def test_a_network_that_ends_in_something_else_has_none():
    softmax = nn.Sequential(nn.Linear(2, 3), nn.LogSoftmax(-1))
    assert last_linear(softmax, torch.zeros(2, 2)) is None
    assert last_linear(nn.Flatten(), torch.zeros(2, 2)) is None


def test_looking_for_it_leaves_no_hook():
    model = SmallConvNet(8)
    last_linear(model, torch.zeros(2, 1, 8, 8))
    features_before(model, "fc3", torch.zeros(2, 1, 8, 8))
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 0


def test_features_are_what_the_layer_sees():
    model, images = SmallConvNet(8), torch.rand(5, 1, 8, 8)
    features = features_before(model, "fc3", images, batch_size=2)
    assert features.shape == (5, 32)
    assert torch.allclose(model.fc3(features), model(images), atol=1e-6)
