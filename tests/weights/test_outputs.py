from types import SimpleNamespace

import pytest
import torch
from torch import nn

from editgym.weights import EditableNetwork, find_sites
from editgym.weights.classifiers.outputs import OutputError, logits_of, unread
from editgym.weights.sites import UnknownSiteError

LOGITS = torch.randn(4, 3)
FORMS = {
    "a tensor": lambda logits: logits,
    "an object": lambda logits: SimpleNamespace(logits=logits, loss=None),
    "a mapping": lambda logits: {"loss": torch.zeros(()), "logits": logits},
    "a tuple": lambda logits: (logits, torch.zeros(2)),
    "a list": lambda logits: [logits],
}


class Own(nn.Module):
    """A network of one's own that gives its logits out in some form."""

    def __init__(self, form):
        super().__init__()
        self.first, self.second, self.form = nn.Linear(6, 5), nn.Linear(5, 3), form

    def forward(self, x):
        return FORMS[self.form](self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_in_whatever_form(form):
    assert logits_of(FORMS[form](LOGITS)) is LOGITS


@pytest.mark.parametrize("output", [None, (), {}, "logits", (None, LOGITS), SimpleNamespace(a=1)])
def test_what_holds_no_logits_is_refused(output):
    with pytest.raises(OutputError, match=rf"a {type(output).__name__}; expected logits, \(n, cl"):
        logits_of(output)


@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_any_form_is_cut_and_gives_logits_wherever_it_is_read(form):
    model, x = Own(form).eval(), torch.randn(7, 6)
    names = set(model.state_dict())
    network = EditableNetwork(model, find_sites(model, ["second"]), x)
    with torch.no_grad():
        expected = logits_of(model(x))
    assert network.reuses_prefix
    seen = network.activations(x)
    assert seen[0].shape == (7, 5)
    for found in (
        network.logits(x),
        network.probe(),
        network.probe(model),
        network.base(x),
        network.merged()(x),
        network.candidate_logits([network.base_weights[0].unsqueeze(0)], seen)[0],
    ):
        torch.testing.assert_close(found, expected)
    assert set(network.state_dict()) == names
    assert type(model(x)) is type(FORMS[form](LOGITS)), "the model that was given is as it was"


def test_a_network_without_logits_is_refused():
    class Nothing(Own):
        def forward(self, x):
            super().forward(x)

    model = Nothing("a tensor")
    with pytest.raises(OutputError, match="gives out a NoneType; expected logits"):
        EditableNetwork(model, find_sites(model, ["second"]), torch.randn(4, 6))


class WithAHeadForTraining(nn.Module):
    """Its auxiliary head is read in training alone, and it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.auxiliary = nn.Linear(5, 3)

    def forward(self, x):
        if not bool(x.isfinite().all()):
            raise ValueError
        hidden = self.body(x).relu()
        return self.head(hidden) + (self.auxiliary(hidden) if self.training else 0)


@pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
def test_sites_that_nothing_reads_are_refused():
    model, example = WithAHeadForTraining().eval(), torch.randn(3, 4)
    names = ["body.weight", "head.weight", "auxiliary.weight"]
    assert unread(model, names, example) == ["auxiliary.weight"]
    assert unread(model, names[:2], example) == []
    with pytest.raises(UnknownSiteError, match=r"does not read \['auxiliary'\]"):
        EditableNetwork(model, find_sites(model, ["auxiliary", "body"]), example)
    EditableNetwork(model, find_sites(model, ["body"]), example)
