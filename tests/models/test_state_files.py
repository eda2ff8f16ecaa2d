"""State dicts in the files that people have: safetensors, and what `torch.save` writes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from editgym.models.state_files import state_dict
from editgym.models.training import load_weights


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture
def model():
    return network()


class Meter:
    """What a training script may put into its checkpoint."""


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
        lambda state: {"state_dict": {f"model.{name}": t for name, t in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": t for name, t in state.items()},
    ],
    ids=[
        *("bare", "state_dict", "model_state_dict", "model", "parallel", "parallel inside"),
        *("lightning", "compiled"),
    ],
)
def test_checkpoints_of_torch_are_read(model, tmp_path, name, wrap):
    torch.save(wrap(model.state_dict()), tmp_path / name)
    fresh = load_weights(network(), tmp_path / name)
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.state_dict().items())
    assert not fresh.training


def test_a_parameter_called_model_is_no_wrapper(tmp_path):
    torch.save({"model": torch.ones(2)}, tmp_path / "net.pt")
    assert state_dict(tmp_path / "net.pt")["model"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (
            Meter(),
            r"holds more than tensors: write it by torch.save\(model.state_dict\(\), 'net.pt'",
        ),
        ({"state_dict": {"a": torch.ones(1)}, "meter": Meter()}, "holds more than tensors"),
        ([torch.ones(2)], "holds no state dict but no mapping"),
        ({"epoch": 3, "loss": 0.1}, r"holds no state dict but the keys \['epoch', 'loss'\]"),
        ({}, r"holds no state dict but the keys \[\]"),
        ({"a": torch.tensor([1.0, torch.inf])}, "its tensor 'a' has numbers that are not finite"),
    ],
)
def test_what_is_no_state_dict_is_an_error(tmp_path, saved, message):
    torch.save(saved, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=message):
        state_dict(tmp_path / "net.pt")


def test_a_whole_network_is_not_unpickled(model, tmp_path):
    torch.save(model, tmp_path / "net.pt")
    with pytest.raises(
        ValueError, match=r"weights: .*net.pt does not fit Sequential: it holds more"
    ):
        load_weights(model, tmp_path / "net.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_torn_files_are_an_error(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"it is no safetensors file|cannot read it|more than ten"):
        state_dict(tmp_path / name)


def test_whole_numbers_are_finite(tmp_path):
    save_file({"steps": torch.tensor(7)}, tmp_path / "net.safetensors")
    assert state_dict(tmp_path / "net.safetensors")["steps"] == 7


class Around(nn.Module):
    """A network in a class of one's own."""

    def __init__(self):
        super().__init__()
        self.model = network()


def test_the_checkpoint_of_what_is_inside_a_class_of_ones_own(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "net.pt")
    fresh = load_weights(Around(), tmp_path / "net.pt")
    assert torch.equal(fresh.model[2].weight, model[2].weight)


def test_names_that_differ_by_more_are_no_network_of_this_kind(model, tmp_path):
    other = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    del other["model.0.bias"]
    torch.save(other, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"(?s)net.pt does not fit Sequential: .*Missing key"):
        load_weights(model, tmp_path / "net.pt")


def test_a_folder_without_weights_is_an_error(model, tmp_path):
    with pytest.raises(
        ValueError, match=r"a folder without model.safetensors or pytorch_model.bin"
    ):
        load_weights(model, tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"its model.safetensors.index.json lists no files"):
        load_weights(model, tmp_path)


def test_a_folder_of_several_parts_is_read_whole(model, tmp_path):
    state = model.state_dict()
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(state)}
    for part in set(places.values()):
        save_file({n: t for n, t in state.items() if places[n] == part}, tmp_path / part)
    index = json.dumps({"metadata": {}, "weight_map": places})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    fresh = load_weights(network(), tmp_path).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in fresh.items())
