"""How data flow through small networks, by hand: steps on the way, resolutions, gates."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from editgym.weights.default_sites.layer_flow import Flow, Step, flow_of


class Gated(nn.Module):
    """Two convolutions, a squeeze-and-excitation gate between them, and a pooled head."""

    def __init__(self, pool):
        super().__init__()
        self.pool, self.first, self.second = pool, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, stride=2)
        self.squeeze, self.excite = nn.Conv2d(4, 2, 1), nn.Linear(2, 4)
        self.hidden, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        gate = self.excite(self.squeeze(self.pool(x)).flatten(1)).sigmoid()
        x = self.second(x * gate[:, :, None, None])
        return self.head(self.hidden(x.mean((2, 3))))


class Auxiliary(nn.Module):
    """A second head that is used in training alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.other = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        x = self.body(x)
        return self.head(x) + self.other(x) if self.training else self.head(x)


class Branches(nn.Module):
    """Cannot be traced: which way it goes depends on the data. Its pool hangs in a module of its
    own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, stride=3), nn.Conv2d(4, 4, 3)])
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.first(x)
        x = x * self.gate(x) if x.sum() > 0 else x
        for block in self.blocks:
            x = block(x)
        return self.head(self.pool(x).flatten(1))


def scale(model, name):
    flow = flow_of(model)
    (place,) = flow.places_of(name)
    return flow.scales[place]


def mean(x):
    return x.mean((2, 3), keepdim=True)


def window(x):
    return F.avg_pool2d(x, x.shape[2:])


@pytest.mark.parametrize(
    "pool",
    [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveMaxPool2d((1, 1)),
        mean,
        lambda x: torch.amax(x, (2, 3), keepdim=True),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.adaptive_avg_pool2d(x, output_size=(1, 1)),
        window,
    ],
)
def test_a_gate_is_what_lies_between_a_pooled_map_and_the_map_itself(pool):
    flow = flow_of(Gated(pool))
    inside = {"first", "second", "squeeze", "excite", "hidden", "head"}
    gates = {name for name in inside if set(flow.places_of(name)) <= flow.gates}
    assert gates == {"squeeze", "excite"}


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(7), nn.MaxPool2d(3), nn.Identity()])
def test_without_a_pool_to_one_number_there_is_no_gate(pool):
    assert not flow_of(Gated(pool)).gates


def test_what_is_not_used_in_evaluation_is_on_no_way_and_the_mode_stays():
    model = Auxiliary()
    model.body.eval()
    assert [bool(flow_of(model).places_of(name)) for name in ("body", "head", "other")] == [
        True,
        True,
        False,
    ]
    assert (model.training, model.body.training, model.head.training) == (True, False, True)


@pytest.mark.parametrize(
    ("coarser", "times"),
    [
        (nn.Identity(), 1),
        (nn.Conv2d(2, 2, 3, stride=(1, 2)), 2),
        (nn.MaxPool2d(3), 3),
        (nn.MaxPool2d(3, stride=1), 1),
        (nn.AvgPool2d(2), 2),
        (lambda x: F.max_pool2d(x, 2), 2),
        (lambda x: F.max_pool2d(x, 3, 2), 2),
        (lambda x: F.avg_pool2d(x, kernel_size=4), 4),
        (lambda x: F.avg_pool2d(x, (2, 3), stride=1), 1),
        (torch.relu, 1),
    ],
)
def test_resolution_is_what_strides_and_windows_leave(coarser, times):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.coarser, self.last = coarser, nn.Conv2d(2, 2, 1, stride=2)

        def forward(self, x):
            return self.last(self.coarser(x))

    assert scale(Net(), "last") == 2 * times


def test_of_parallel_ways_the_coarser_counts():
    assert Flow(
        (Step("", ()), Step("a", (0,), 4), Step("b", (0,), 2), Step("", (1, 2), 3))
    ).scales == (
        1,
        4,
        2,
        12,
    )


def test_what_cannot_be_traced_is_a_chain_without_what_hangs_on_a_pool():
    model = Branches()
    flow = flow_of(model)
    used = [step.uses for step in flow.steps]
    assert used == ["", "first", "gate.0", "gate.1", "blocks.0", "blocks.1", "pool", "head", ""]
    assert not flow.places_of("gate.1")
    assert [flow.scales[flow.places_of(name)[0]] for name in ("first", "blocks.1")] == [2, 6]
    assert flow.places_of("head")


def test_layers_of_attention_are_inside_its_step():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.scale = nn.MultiheadAttention(4, 2), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.attention(x, x, x)[0] * self.scale

    flow = flow_of(Attends())
    assert flow.places_of("attention.out_proj") == flow.places_of("attention.in_proj") == [1]
    assert len(flow.places_of("none", "scale")) == 1
    assert flow.places_of("atten") == []
