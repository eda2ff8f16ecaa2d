"""Networks that cannot be judged on the images are refused when the task is made."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from editgym.data.errors import DataError
from editgym.tasks.unlearning.network_checks import check_takes

NETWORKS = """
from torch import nn


def plain(channels=1, classes=4, size=8, last=None):
    layers = [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten()]
    layers += [nn.Linear(4 * size * size, 16), nn.ReLU(), nn.Linear(16, classes)]
    return nn.Sequential(*layers, *([] if last is None else [getattr(nn, last)(-1)]))


def pixelwise():
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
"""


@pytest.fixture
def made(own, tmp_path, monkeypatch):
    """`made("plain", **model_kwargs)`: the custom task with such a network of random weights."""
    (tmp_path / "own_nets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, state=None, **kwargs):
        import own_nets

        weights = state or getattr(own_nets, name)(**kwargs).state_dict()
        save_file(weights, tmp_path / "own.safetensors")
        return own(
            model=f"own_nets:{name}",
            model_kwargs=kwargs,
            weights=str(tmp_path / "own.safetensors"),
            sites=["0"],
        )

    yield make
    sys.modules.pop("own_nets", None)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "plain",
            {"channels": 3},
            r"data: Sequential cannot take the images of /.*\.npz, of shape \(1, 8, 8\) .*'0',"
            r" takes 3 channels, and these have 1 \(channels=3 reads",
        ),
        (
            "plain",
            {"size": 16},
            r"cannot take the images of .*, of shape \(1, 8, 8\) .*RuntimeError: mat1",
        ),
        (
            "plain",
            {"classes": 3},
            r"data: /.*\.npz has labels up to 3, but Sequential has only 3 outputs",
        ),
        ("plain", {"last": "Softmax"}, "returns probabilities, which sum to 1 .*leave its softmax"),
        ("pixelwise", {}, r"returns \(18, 4, 8, 8\) for 18 images; it must return logits \(n, cla"),
    ],
)
def test_networks_that_do_not_go_with_the_images_are_refused(made, name, arguments, message):
    with pytest.raises(DataError, match=message):
        made(name, **arguments)


@pytest.mark.parametrize("last", [None, "LogSoftmax"])
def test_logits_and_their_logarithms_of_probabilities_are_taken(made, last):
    assert made("plain", last=last).n_classes == 4


def test_weights_that_are_not_finite_are_named(made):
    import own_nets

    state = own_nets.plain().state_dict()
    state["3.weight"][2, 5] = torch.nan
    with pytest.raises(ValueError, match=r"own.safetensors .*'3.weight' has numbers that are not"):
        made("plain", state)


@pytest.mark.filterwarnings("ignore:Sequential. every evaluation runs the whole network")
def test_outputs_that_are_not_finite_are_refused(made):
    import own_nets

    state = own_nets.plain().state_dict()
    state["3.weight"].fill_(1e38)
    state["5.weight"].fill_(1e38)
    with pytest.raises(DataError, match="is not finite for image 0 of the policy split"):
        made("plain", state)


def test_a_network_that_fails_in_any_way_is_named():
    class Fails(nn.Module):
        def forward(self, images):
            raise KeyError("pixel_values")

    with pytest.raises(DataError, match=r"Fails cannot take .*KeyError: 'pixel_values'"):
        check_takes(Fails(), torch.zeros(2, 1, 8, 8), "own.npz")
