"""Networks in which a sample's logits depend on its batch are not cut: their activations could not
be reused in another batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import ViTConfig, ViTModel

from editgym.weights import EditableNetwork, find_sites
from editgym.weights.classifiers.batches import is_by_sample

DEPENDENT = {
    "statistics of the batch": lambda x: F.batch_norm(x, None, None, training=True),
    "a layer without running statistics": nn.BatchNorm1d(16, track_running_stats=False).eval(),
    "the mean": lambda x: x - x.mean(0),
    "the largest of all": lambda x: x / x.abs().max(),
    "the first": lambda x: x - x[:1],
    "the last": lambda x: x - x[-1:],
    "one in the middle": lambda x: x - x[x.shape[0] // 2],
    "those before": lambda x: x.cumsum(0),
    "the one before": lambda x: x + x.roll(1, 0),
    "the order": lambda x: x.sort(0).values,
    "a softmax over samples": lambda x: x.softmax(0),
    "similarity with others": lambda x: x + 0.1 * (x @ x.T) @ x,
    "the number of samples": lambda x: x * x.shape[0],
}
ALONE = {
    "nothing": lambda x: x,
    "its own statistics": lambda x: F.layer_norm(x, (16,)),
    "its own largest": lambda x: x / x.abs().amax(1, keepdim=True),
    "running statistics": nn.BatchNorm1d(16).eval(),
    "its own order": lambda x: x.sort(1).values,
    "dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
}


class Traced(nn.Module):
    """Two layers, with something between them; torch.fx can follow it."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 5)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


class AfterTransformer(nn.Module):
    """The same after a model of `transformers`, which has no graph."""

    def __init__(self, between):
        super().__init__()
        config = ViTConfig(
            image_size=4, patch_size=2, num_channels=1, hidden_size=16, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=16,
        )  # fmt: skip
        self.model = ViTModel(config, add_pooling_layer=False)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 5)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(self.model(x).last_hidden_state[:, 0])))


KINDS = {Traced: (12,), AfterTransformer: (1, 4, 4)}


@pytest.mark.parametrize("site", ["first", "second"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_the_batch_is_not_reused(kind, name, site):
    model, x = kind(DEPENDENT[name]).eval(), torch.randn(7, *KINDS[kind])
    with pytest.warns(UserWarning, match=r"whole network, because .* depends? on the others"):
        network = EditableNetwork(model, find_sites(model, [site]), torch.randn(8, *KINDS[kind]))
    assert not network.reuses_prefix
    weights = [network.base_weights[0].expand(2, -1, -1)]
    with torch.no_grad():
        found = network.candidate_logits(weights, network.activations(x))[1]
        torch.testing.assert_close(found, model(x))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("site", ["first", "second"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ALONE)
def test_what_does_not_is(kind, name, site):
    model = kind(ALONE[name]).eval()
    network = EditableNetwork(model, find_sites(model, [site]), torch.randn(8, *KINDS[kind]))
    assert network.reuses_prefix


def test_every_result_is_looked_at():
    x = torch.randn(4, 3)
    assert is_by_sample(lambda x: (x, x.long(), x[:, :0]), x)
    assert not is_by_sample(lambda x: (x, x - x.mean(0)), x)
    assert not is_by_sample(lambda x: (x, (x - x.mean(0)).mul(100).long()), x)
    assert not is_by_sample(lambda x: (x.sum(0),), x)
