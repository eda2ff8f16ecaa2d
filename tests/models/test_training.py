import threading

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from editgym.data.images import Labelled
from editgym.models.classifiers import SmallConvNet
from editgym.models.training import (
    Recipe,
    cached_classifier,
    load_weights,
    save_weights,
    train_classifier,
)
from editgym.weights import fingerprint, tensor_file


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator)
    return Labelled(inputs, (inputs[:, 0] > 0).long())


def build():
    return nn.Linear(6, 2)


def accuracy(model, data):
    return float((model(data.inputs).argmax(-1) == data.labels).float().mean())


def test_equal_arguments_give_equal_weights_and_another_seed_others(data):
    recipe = Recipe(epochs=2)
    first, again, other = (
        fingerprint(train_classifier(build, data, data, recipe, seed)) for seed in (0, 0, 1)
    )
    assert first == again != other


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    first, again = (cached_classifier({"tied": True}, Tied, Tied) for _ in range(2))
    assert torch.equal(first.second.weight, first.first.weight)
    assert fingerprint(first) == fingerprint(again)


def test_what_training_raises_is_no_fault_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))

    def train():
        raise FileNotFoundError("my_data.npz")

    with pytest.raises(FileNotFoundError, match="my_data"):
        cached_classifier({"what": "fails"}, build, train)
    assert not list((tmp_path / "networks").glob("*.safetensors"))


def test_training_learns_and_freezes(data):
    model = train_classifier(build, data, data, Recipe(epochs=30, learning_rate=0.05), seed=0)
    assert accuracy(model, data) > 0.95
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_training_stops_as_soon_as_it_is_good_enough(data):
    kept = train_classifier(
        build, data, data, Recipe(epochs=100, learning_rate=0.01, stop_at=0.8, check_every=1), 0
    )
    assert 0.8 <= accuracy(kept, data) < 0.9


def test_training_leaves_generator_and_threads_as_they_were(data):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    train_classifier(build, data, data, Recipe(epochs=1), seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_network_is_trained_once_per_key(monkeypatch, tmp_path):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    trained = []

    def train():
        trained.append(build())
        return trained[-1]

    networks = [cached_classifier({"seed": seed}, build, train) for seed in (0, 0, 1)]
    assert len(trained) == 2
    assert torch.equal(networks[0].weight, networks[1].weight)
    assert torch.equal(networks[0].weight, trained[0].weight)
    assert torch.equal(networks[2].weight, trained[1].weight)


def test_others_wait_while_one_trains(monkeypatch, tmp_path):
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    started, finish, trained, got = threading.Event(), threading.Event(), [], []

    def train():
        started.set()
        assert finish.wait(30)
        trained.append(build())
        return trained[-1]

    def ask():
        got.append(cached_classifier({"seed": 0}, build, train))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(30)
    finish.set()
    for thread in threads:
        thread.join(30)
    assert (len(trained), len(got)) == (1, 3)


def garbage(path):
    path.write_bytes(b"\x00" * 64)


def another_network(path):
    save_weights(SmallConvNet(8, 7), path, {})


def cut(path):
    save_weights(SmallConvNet(8), path, {})
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("write", [garbage, another_network, cut])
def test_file_that_does_not_hold_the_networks_weights_is_an_error(tmp_path, write):
    path = tmp_path / "weights.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"weights: .* does not fit SmallConvNet"):
        load_weights(SmallConvNet(8), path)


def test_weights_are_saved_and_loaded_exactly(tmp_path):
    model = SmallConvNet(8)
    save_weights(model, tmp_path / "weights.safetensors", {"seed": 0})
    assert fingerprint(
        load_weights(SmallConvNet(8), tmp_path / "weights.safetensors")
    ) == fingerprint(model)


def test_a_network_that_cannot_be_written_is_an_error_of_the_cache(tmp_path, monkeypatch):
    def disk_full(*_args, **_named):
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path))
    monkeypatch.setattr(tensor_file, "save_file", disk_full)
    with pytest.raises(ValueError, match=r"^EDITGYM_CACHE: cannot keep the trained network in"):
        cached_classifier({"what": "is large"}, build, build)
    assert not list((tmp_path / "networks").glob("*.safetensors*.partial"))
