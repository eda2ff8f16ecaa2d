"""Layers that are skipped, on a model by hand, and what a pass begins with."""

import pytest
import torch
from torch import nn

from editgym.weights import EditSite
from editgym.weights.language.layers import LayerStack, Prefix


class Adds(nn.Module):
    """A layer that adds a number, and counts its calls."""

    def __init__(self, number, as_tuple):
        super().__init__()
        self.number, self.as_tuple, self.calls = number, as_tuple, 0

    def forward(self, x):
        self.calls += 1
        return (x + self.number,) if self.as_tuple else x + self.number


class Adder(nn.Module):
    """Layers that add 1, 10, 100 and 1,000, and give out tuples or tensors; two other lists."""

    def __init__(self, as_tuple=False):
        super().__init__()
        self.layers = nn.ModuleList(Adds(10**place, as_tuple) for place in range(4))
        self.others = nn.ModuleList([nn.Linear(2, 2)])
        self.in_a_row = nn.Sequential(nn.Linear(2, 2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            x = x[0] if layer.as_tuple else x
        return x


def stack(*names, as_tuple=False):
    model = Adder(as_tuple)
    return model, LayerStack(model, [EditSite(name, "linear", (2, 2)) for name in names])


@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize(("layer", "given"), [(1, 1), (2, 11), (3, 111)])
def test_a_pass_begins_at_a_layer_with_what_went_into_it(as_tuple, layer, given):
    model, layers = stack("layers.1.fc", as_tuple=as_tuple)
    x = torch.zeros(1, 3, 2, requires_grad=True)
    prefix = layers.prefix(layer, lambda: model(x))
    assert prefix.layer == layer
    assert torch.equal(prefix.activations, torch.full((1, 3, 2), float(given)))
    assert not prefix.activations.requires_grad
    assert [one.calls for one in model.layers] == [1] * layer + [0] * (4 - layer)
    with layers.starting_at(prefix):
        assert torch.equal(model(x - 5), torch.full((1, 3, 2), 1111.0)), (
            "the input is not looked at"
        )
    assert [one.calls for one in model.layers] == [1] * 4
    with layers.starting_at(None):
        assert torch.equal(model(x), torch.full((1, 3, 2), 1111.0))


def test_the_first_layer_is_the_lowest_of_the_sites_asked_for():
    _, layers = stack("layers.3.fc", "layers.1.fc", "layers.2.fc")
    assert layers.first(["layers.3.fc", "layers.2.fc"]) == 2
    assert layers.first([]) == 0
    assert layers.ends == ["layers.1.fc", "layers.3.fc"]
    layers.give_up()
    assert (layers.first(["layers.3.fc"]), layers.ends) == (0, [])


@pytest.mark.parametrize(
    "names",
    [("layers.1.fc", "head"), ("layers.1.fc", "others.0.fc"), ("in_a_row.0.fc",), ("head",), ()],
)
def test_without_one_list_of_layers_none_is_skipped(names):
    _, layers = stack(*names)
    assert (layers.first(names), layers.ends) == (0, [])


def test_prefixes_are_joined_at_the_longest_texts_length():
    one, other = torch.full((1, 2, 5), 1.0), torch.full((2, 3, 5), 2.0)
    joined = Prefix.join([Prefix(one, 4), Prefix(other, 4)])
    padded = torch.cat([one, torch.zeros(1, 1, 5)], dim=1)
    assert torch.equal(joined.activations, torch.cat([padded, other]))
    assert joined.layer == 4
    assert torch.equal(Prefix.join([Prefix(one, 4)]).activations, one)


def test_a_repeated_prefix_has_its_texts_one_after_the_other():
    texts = torch.arange(12.0).view(2, 3, 2)
    repeated = Prefix(texts, 1).repeat(3)
    assert torch.equal(repeated.activations, torch.cat([texts] * 3))
    assert repeated.layer == 1
