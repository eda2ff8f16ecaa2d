"""Which layers are edited by default, by the shapes and the flow of networks."""

import pytest
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    EfficientNetConfig,
    EfficientNetForImageClassification,
    RegNetConfig,
    RegNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from editgym.models.classifiers import BagOfWordsNet, ResNet20, SmallConvNet
from editgym.weights import (
    discover_sites,
    editable_sites,
)
from editgym.weights.default_sites.default_layers import block_outputs


def test_attention_whose_keys_are_of_another_width_has_no_one_input_projection():
    names = [site.name for site in editable_sites(nn.MultiheadAttention(4, 2, kdim=3))]
    assert names == ["out_proj"]
    assert [s.name for s in editable_sites(nn.MultiheadAttention(4, 2))] == ["in_proj", "out_proj"]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            lambda: ResNetForImageClassification(
                ResNetConfig(depths=[1, 1, 2], hidden_sizes=[8, 16, 16], layer_type="basic")
            ),
            [
                f"resnet.encoder.stages.2.layers.{i}.layer.{j}.convolution"
                for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))
            ],
        ),
        (
            lambda: ConvNextForImageClassification(
                ConvNextConfig(depths=[1, 2, 2, 1], hidden_sizes=[8, 8, 16, 16])
            ),
            [
                "convnext.encoder.stages.2.layers.0.pwconv2",
                "convnext.encoder.stages.2.layers.1.pwconv2",
            ],
        ),
        (
            lambda: EfficientNetForImageClassification(
                EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.2)
            ),
            [f"efficientnet.encoder.blocks.{i}.projection.project_conv" for i in (5, 6)],
        ),
        (
            lambda: RegNetForImageClassification(
                RegNetConfig(depths=[1, 1, 1, 2], groups_width=4, hidden_sizes=[8, 8, 16, 16])
            ),
            [f"regnet.encoder.stages.3.layers.{i}.layer.3.convolution" for i in (0, 1)],
        ),
    ],
)
def test_default_sites_of_networks_that_cannot_be_traced(build, expected):
    assert [site.name for site in discover_sites(build())] == expected


def block(*layers):
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (SmallConvNet(8), ["fc2"]),
        (BagOfWordsNet(20), ["fc3"]),
        (ResNet20(), [f"layer3.{b}.conv{i}" for b in range(3) for i in (1, 2)]),
        # one block is no stack, nor are the pairs of one plain MLP
        (nn.Sequential(block(nn.Linear(4, 8), nn.Linear(8, 4)), nn.Linear(4, 2)), ["0.1"]),
        (
            nn.Sequential(
                *(nn.Linear(*w) for w in ((4, 8), (8, 4), (4, 8), (8, 4))), nn.Linear(4, 2)
            ),
            ["3"],
        ),
        # nor is what narrows first, such as a gate
        (
            nn.Sequential(
                *(block(nn.Linear(4, 2), nn.Linear(2, 4)) for _ in range(2)), nn.Linear(4, 2)
            ),
            ["1.1"],
        ),
        (
            nn.Sequential(
                *(block(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2)),
                nn.Linear(4, 2),
            ),
            ["1.2"],
        ),
        # a grouped convolution that nothing mixes afterwards stands for itself
        (
            nn.Sequential(
                nn.Conv2d(3, 4, 3, 2),
                nn.Conv2d(4, 4, 3, 2, groups=2),
                nn.Flatten(),
                nn.Linear(4, 2),
            ),
            ["1"],
        ),
        # 1×1 convolutions on a coarser map than the last larger ones do not move the last stage
        (
            nn.Sequential(
                nn.Conv2d(3, 4, 3),
                nn.MaxPool2d(2),
                nn.Conv2d(4, 4, 1),
                nn.Flatten(),
                nn.Linear(4, 2),
            ),
            ["0"],
        ),
    ],
)
def test_default_sites_of_plain_networks(model, expected):
    assert [site.name for site in discover_sites(model)] == expected


def test_experts_are_no_stack_of_blocks():
    experts = nn.ModuleDict(
        {"experts": nn.ModuleList(block(nn.Linear(4, 8), nn.Linear(8, 4)) for _ in range(2))}
    )
    model = nn.ModuleDict({"layers": experts, "fc": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    assert [site.name for site in discover_sites(model)] == ["fc"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bert", "bert.encoder.layer.{}.output.dense"),
        ("distilbert", "distilbert.transformer.layer.{}.ffn.lin2"),
        ("roberta", "roberta.encoder.layer.{}.output.dense"),
        ("modernbert", "model.layers.{}.mlp.Wo"),
    ],
)
def test_default_sites_of_encoders_of_text_are_outputs_of_late_mlps(kind, expected):
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    if kind == "distilbert":
        sizes = {"dim": 16, "n_layers": 4, "n_heads": 2, "hidden_dim": 24}
    else:
        sizes["intermediate_size"] = 24
    config = AutoConfig.for_model(kind, vocab_size=20, pad_token_id=0, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    assert [site.name for site in discover_sites(model)] == [expected.format(i) for i in (2, 3)]


def test_attention_with_wide_values_is_no_block():
    def named(attention):
        pair = nn.ModuleDict({"v": nn.Linear(4, 8), "o": nn.Linear(8, 4)})
        return nn.ModuleDict({attention: pair})

    for attention, expected in (("self_attn", []), ("attention", []), ("mixer", ["1.mixer.o"])):
        layers = nn.ModuleList(named(attention) for _ in range(2))
        names = [site.name for site in editable_sites(layers)]
        assert block_outputs(layers, names) == expected
        assert block_outputs(layers, names[2:]) == [], "one block is no stack"
