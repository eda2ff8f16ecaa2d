import pytest
import torch
from safetensors.torch import load_file

from editgym.data import images
from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.models.training import load_weights
from editgym.paths import data_folder


@pytest.mark.parametrize("size", [8, 28, 30])
def test_small_network_is_the_papers(size):
    model = SmallConvNet(size)
    assert model(torch.rand(3, 1, size, size)).shape == (3, 10)
    assert model.fc2.weight.shape == (32, 128)
    assert [
        tuple(p.shape[:2])
        for name, p in model.named_parameters()
        if name.startswith("conv") and p.ndim > 1
    ] == [(16, 1), (32, 16)]


def test_resnet20_has_the_papers_size_and_weighted_layers():
    model = ResNet20()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == 269_722
    assert sum(p.ndim > 1 for p in model.parameters()) == 20


def test_resnet20_halves_the_image_twice_and_pads_channels_in_the_shortcut():
    model = ResNet20().eval()
    x = torch.rand(2, 16, 32, 32)
    block = model.layer2[0]
    block.bn2.weight.data.zero_()  # leaves the shortcut alone
    with torch.no_grad():
        y = block(x)
    assert y.shape == (2, 32, 16, 16)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


@pytest.mark.data("classifiers/resnet20_cifar10.safetensors", "images/cifar10_subset.npz")
def test_published_resnet20_weights_classify_cifar10():
    path = data_folder() / "classifiers" / "resnet20_cifar10.safetensors"
    model = load_weights(ResNet20(), path)
    assert model.state_dict().keys() == load_file(path).keys()
    test = images.cifar10().test[torch.arange(0, 2000, 5)]
    with torch.no_grad():
        assert (model(test.inputs).argmax(-1) == test.labels).float().mean() > 0.8
