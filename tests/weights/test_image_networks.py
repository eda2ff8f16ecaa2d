"""Default sites of image networks can really be edited: masks, shifts and candidates score what
networks with changed weights do."""

import warnings

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig

from benchmarks.studies.default_sites import FAMILIES, built
from editgym.weights import (
    EditableNetwork,
    ExportError,
    LowRankFactors,
    Mask,
    Shift,
    SiteEdit,
    discover_sites,
    export_adapter,
    find_sites,
)

SIZES = {"AlexNet": 64, "SqueezeNet": 64, "Inception v3": 75, "Swin v2": 64, "MaxViT": 224}
QUICK = (
    "ResNet, basic blocks",
    "ShuffleNet v2",
    "MobileNet v2",
    "MobileNet v3",
    "RegNet",
    "SqueezeNet",
)


def small_efficientnet():
    """Two stages with squeeze and excitation, the second of them coarser."""
    blocks = [MBConvConfig(4, 3, stride, 8, 8, 2) for stride in (1, 2)]
    return models.EfficientNet(blocks, dropout=0.0, num_classes=10)


def small_vit():
    return models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=10)


# Networks of the slower families, small enough to be tested every time, and their default sites.
SMALL = {
    "ResNeXt": (
        lambda: models.ResNet(
            models.resnet.Bottleneck, [1, 1, 1, 2], 10, groups=4, width_per_group=4
        ),
        ["layer4.0.conv3", "layer4.1.conv3"],
    ),
    "DenseNet": (
        lambda: models.DenseNet(4, (2, 2, 2, 3), 8, bn_size=2, num_classes=10),
        [f"features.denseblock4.denselayer{i}.conv2" for i in (1, 2, 3)],
    ),
    "EfficientNet": (
        small_efficientnet,
        ["features.2.0.block.3.0", "features.2.1.block.3.0"],
    ),
    "ConvNeXt": (
        lambda: models.ConvNeXt(
            [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 4)], num_classes=10
        ),
        [f"features.3.{i}.block.5" for i in (1, 2)],
    ),
    "ViT": (small_vit, [f"encoder.layers.encoder_layer_{i}.mlp.3" for i in (2, 3)]),
    "Swin": (
        lambda: models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=10),
        [f"features.3.{i}.mlp.3" for i in (0, 1)],
    ),
}


def awake(model, x):
    """The network with logits that depend on its inputs, which untrained ones hardly do: its
    normalisations are those of `x`, and its head is as large as it takes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.train()
    weights = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    head = [m for m in weights if len(m.weight) == 10][-1]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):  # ConvNeXt begins with blocks that do almost nothing
                parameter.fill_(1.0)
        if not head.weight.any():  # as ViT begins
            nn.init.normal_(head.weight)
        model(x)
        model.eval()
        head.weight.mul_(1 / model(x).std(0).mean())
    return model.eval()


def check_edits(model, x, sites):
    """Apply masks and shifts, and compare logits and scores of candidates with networks whose
    weights are changed by hand."""
    network = EditableNetwork(model, sites, x)
    assert network.reuses_prefix
    with torch.no_grad():
        before, expected, weights = model(x), [], []
    for operator in (Mask(), Shift(0.05), Shift(0.05)):
        network.reset()
        tensors = model.state_dict()
        for site in sites:
            a, b = torch.randn(site.shape[0], 2), torch.randn(2, site.shape[1])
            network.apply(SiteEdit(site.name, operator, LowRankFactors(a, b, scale=0.5, bound=1.0)))
            d, weight = (0.5 * a @ b).clamp(-1, 1), tensors[site.parameter]
            d = d.reshape(weight.shape)
            by_hand = (
                weight * (1 + d).clamp(0, 1) if isinstance(operator, Mask) else weight + 0.05 * d
            )
            tensors[site.parameter] = by_hand
        with torch.no_grad():
            expected.append(torch.func.functional_call(model, tensors, (x,)))
        size = expected[-1].abs().max().clamp_min(1)
        assert (expected[-1] - before).abs().max() > 1e-2, "the edit does nothing"
        assert (network.logits(x) - expected[-1]).abs().max() <= 1e-5 * size
        weights.append(network.weights)
    candidates = [torch.stack(per_site) for per_site in zip(*weights, strict=True)]
    scored = network.candidate_logits(candidates, network.activations(x))
    expected = torch.stack(expected)
    assert (scored - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    "family",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES],
)
def test_default_sites_of_a_family_can_be_edited(family):
    size = SIZES.get(family, 32)
    builder = FAMILIES[family]
    more = {"image_size": size} if builder is models.vit_b_16 else {}
    x = torch.randn(3, 3, size, size)
    model = awake(built(builder, num_classes=10, **more), x)
    check_edits(model, x, discover_sites(model))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("family", SMALL)
def test_default_sites_of_a_small_network_are_right_and_can_be_edited(family):
    build, expected = SMALL[family]
    x = torch.randn(4, 3, 32, 32)
    model = awake(build(), x)
    sites = discover_sites(model)
    assert [site.name for site in sites] == expected
    check_edits(model, x, sites)


def test_input_projections_of_attention_can_be_edited_by_name():
    x = torch.randn(4, 3, 32, 32)
    model = awake(small_vit(), x)
    sites = find_sites(model, ["*.encoder_layer_[12].self_attention.in_proj"])
    assert [str(site) for site in sites] == [
        f"encoder.layers.encoder_layer_{i}.self_attention.in_proj (48 × 16, in_proj)"
        for i in (1, 2)
    ]
    assert all(site.parameter in model.state_dict() for site in sites)
    check_edits(model, x, sites)


class Encoder(nn.Module):
    """Patches, PyTorch's own encoder, and a head."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).mT).mean(1))


def test_default_sites_of_pytorchs_own_encoder():
    x = torch.randn(4, 3, 32, 32)
    model = awake(Encoder(), x)
    sites = discover_sites(model)
    assert [site.name for site in sites] == [f"encoder.layers.{i}.linear2" for i in (2, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_edits(model, x, sites)


def test_input_projections_of_attention_are_no_adapter(tmp_path):
    pytest.importorskip("peft")
    model = small_vit().eval()
    (site,) = sites = find_sites(model, ["*.encoder_layer_3.*in_proj"])
    network = EditableNetwork(model, sites, torch.randn(2, 3, 32, 32))
    a, b = torch.randn(site.shape[0], 1), torch.randn(1, site.shape[1])
    network.apply(SiteEdit(site.name, Shift(), LowRankFactors(a, b)))
    with pytest.raises(ExportError, match="input projections of attention, is no module"):
        export_adapter(network, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_attention_of_candidates_is_computed_at_once():
    x = torch.randn(4, 3, 32, 32)
    model = awake(small_vit(), x)
    fast = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # vmap warns where it takes one candidate after the other
        check_edits(model, x, discover_sites(model))
    assert torch.backends.mha.get_fastpath_enabled() is fast
