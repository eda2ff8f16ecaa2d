"""Classifiers of `transformers` are cut at the input of their first site, without a graph."""

import warnings

import pytest
import torch
import transformers
from torch import nn
from torch.func import functional_call

from editgym.weights import EditableNetwork, Mask, SiteEdit, find_sites
from editgym.weights.factors import DenseUpdate
from editgym.weights.hooks import hooked

LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TEXT = {"vocab_size": 60, "max_position_embeddings": 32, "pad_token_id": 1, "num_labels": 3}
IMAGE = {"image_size": 16, "patch_size": 4, "num_labels": 3}
STAGES = {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 2, 2], "num_labels": 3}
MODELS = {
    "ViT": LAYERS | IMAGE,
    "ResNet": STAGES | {"embedding_size": 4},
    "ConvNext": STAGES,
    "Bert": LAYERS | TEXT,
    "GPT2": TEXT | {"n_embd": 16, "n_layer": 2, "n_head": 2, "eos_token_id": 2, "bos_token_id": 2},
}
# Model, sites, shapes of what is kept of a sample, and whether candidates run at once.
CUTS = [
    ("ViT", ["classifier"], [(16,)], True),
    ("ViT", ["vit.layers.1.mlp.fc2"], [(17, 16), (17, 16), (17, 24)], True),
    ("ViT", ["vit.layers.2.attention.*_proj"], [(17, 16), (17, 16)], True),
    ("ResNet", ["classifier.1"], [(10,)], True),
    ("ResNet", ["*.stages.3.layers.1.layer.1.convolution"], [(10, 1, 1), (2, 1, 1)], True),
    # What the block has made is written to by the sum with the shortcut.
    ("ResNet", ["*.stages.3.layers.0.shortcut.convolution"], [(8, 1, 1), (10, 1, 1)], False),
    ("ConvNext", ["classifier"], [(10,)], True),
    ("ConvNext", ["convnext.encoder.stages.3.layers.1.pwconv*"], [(10, 1, 1), (1, 1, 10)], True),
    ("Bert", ["classifier"], [(16,)], True),
    ("Bert", ["classifier", "bert.encoder.layer.2.output.dense"], [(9, 16), (9, 24)], True),
    # The ids tell where a text ends.
    ("GPT2", ["score"], [(9,), (9, 16)], True),
]


def model_of(name):
    kind = "Image" if name in ("ViT", "ResNet", "ConvNext") else "Sequence"
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**MODELS[name])
    model = getattr(transformers, f"{name}For{kind}Classification")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def inputs_of(name, count):
    if name in ("ViT", "ResNet", "ConvNext"):
        return torch.randn(count, 3, *(2 * [32 if name == "ConvNext" else 16]))
    ids = torch.randint(3, 60, (count, 9))
    ids[torch.arange(count), torch.randint(4, 9, (count,))] = 1
    return ids


@pytest.fixture
def cut():
    """`cut(name, sites)`: the network, with every warning an error, and the model it is made of."""

    def make(name, sites):
        model = model_of(name)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            network = EditableNetwork(model, find_sites(model, sites), inputs_of(name, 6))
        return network, model.eval()

    return make


@pytest.mark.parametrize(("name", "sites", "kept", "at_once"), CUTS)
def test_candidates_equal_whole_passes_from_what_is_kept_at_the_cut(
    cut, name, sites, kept, at_once
):
    network, model = cut(name, sites)
    assert network.reuses_prefix
    assert network._split.at_once is at_once
    x = inputs_of(name, 10)
    seen = network.activations(x, batch_size=4)
    assert [tuple(one.shape[1:]) for one in seen] == kept
    before = [one.clone() for one in seen]
    weights = [weight + 0.2 * torch.randn(3, *weight.shape) for weight in network.base_weights]
    rows = torch.randint(10, (3, 7))
    shared = network.candidate_logits(weights, seen)
    own = network.map_candidates(lambda logits, _: logits, weights, seen, rows)
    for i in range(3):
        stored = {
            site.parameter: site.to_stored(weight[i])
            for site, weight in zip(network.sites, weights, strict=True)
        }
        with torch.no_grad():
            whole = functional_call(model, stored, (x,)).logits
        torch.testing.assert_close(shared[i], whole, atol=1e-5, rtol=1e-5)
        alone = network.candidate_logits([weight[i : i + 1] for weight in weights], seen)
        torch.testing.assert_close(alone[0], whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own[i], whole[rows[i]], atol=1e-5, rtol=1e-5)
    assert all(map(torch.equal, seen, before)), "nobody has written to what is kept"


@pytest.mark.parametrize(
    ("name", "site", "below"),
    [("ViT", "classifier", "vit.layers.0.mlp"), ("Bert", "classifier", "bert.encoder.layer.0")],
)
def test_what_lies_below_the_first_site_does_not_run_again(cut, name, site, below):
    network, _ = cut(name, [site])
    seen, calls = network.activations(inputs_of(name, 5)), []
    with hooked(before=[(network.base.get_submodule(below), calls.append)]):
        network.candidate_logits([network.base_weights[0].expand(4, -1, -1)], seen)
        assert not calls
        network.logits(inputs_of(name, 5))
        assert calls


def test_the_gradient_is_that_of_the_whole_pass(cut):
    network, model = cut("Bert", ["bert.encoder.layer.1.output.dense"])
    x = inputs_of("Bert", 6)
    weight = network.base_weights[0].clone().requires_grad_()
    logits = network.candidate_logits([weight.unsqueeze(0)], network.activations(x))[0]
    (found,) = torch.autograd.grad(logits.square().sum(), weight)
    own = model.bert.encoder.layer[1].output.dense.weight
    (expected,) = torch.autograd.grad(model(x).logits.square().sum(), own)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_tied_site_below_the_cut_is_found_by_the_comparison():
    """What goes into the site depends on the site's own weight: nothing may be reused."""
    model = model_of("Bert")
    model.bert.encoder.layer[0].attention.self.query.weight = nn.Parameter(torch.randn(16, 16))
    model.bert.encoder.layer[2].attention.self.key.weight = model.bert.encoder.layer[
        0
    ].attention.self.query.weight
    sites = find_sites(model, ["bert.encoder.layer.2.attention.self.key"])
    with pytest.warns(UserWarning, match="BertForSequenceClassification: every evaluation runs"):
        network = EditableNetwork(model, sites, inputs_of("Bert", 6))
    assert not network.reuses_prefix


class Centred(nn.Module):
    """A transformer in which a sample's logits depend on the other samples of its batch."""

    def __init__(self):
        super().__init__()
        self.model, self.head = model_of("ViT"), nn.Linear(16, 3)

    def forward(self, x):
        features = self.model.vit(x).last_hidden_state[:, 0]
        return self.head(features - features.mean(0))


def test_what_depends_on_the_whole_batch_is_not_reused_and_a_warning_says_so():
    model = Centred().eval()
    with pytest.warns(UserWarning, match=r"whole network, because .* depends on the others"):
        network = EditableNetwork(model, find_sites(model, ["head"]), inputs_of("ViT", 6))
    x = inputs_of("ViT", 5)
    assert not network.reuses_prefix
    weights = [network.base_weights[0].expand(2, -1, -1)]
    with torch.no_grad():
        torch.testing.assert_close(
            network.candidate_logits(weights, network.activations(x))[1], model(x)
        )


def test_inputs_of_another_length_are_refused_where_what_is_kept_depends_on_it(cut):
    network, _ = cut("Bert", ["bert.encoder.layer.2.output.dense"])
    with pytest.raises(ValueError, match=r"\(9, 16\) was expected, as for the example"):
        network.activations(inputs_of("Bert", 4)[:, :6])
    head, model = cut("Bert", ["classifier"])
    x = inputs_of("Bert", 4)[:, :6]
    (seen,) = head.activations(x)
    with torch.no_grad():
        torch.testing.assert_close(seen, model.bert(x).pooler_output)


def test_edits_of_a_bare_classifier_are_applied_replayed_and_reset(cut):
    network, model = cut("ViT", ["classifier"])
    x = inputs_of("ViT", 5)
    before = network.logits(x)
    network.apply(SiteEdit("classifier", Mask(), DenseUpdate(-torch.ones(3, 16), bound=1.0)))
    torch.testing.assert_close(network.logits(x), model.classifier.bias.expand(5, 3))
    assert torch.equal(network.merged()(x), network.logits(x))
    network.reset()
    assert torch.equal(network.logits(x), before)
