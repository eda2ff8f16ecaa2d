"""`unlearning/custom` with several checkpoints, and with an oracle of one's own."""

import importlib
import sys
import warnings

import gymnasium as gym
import pytest
import torch
from safetensors.torch import load_file, save_file

from agents.catalogue import make_agent
from agents.protocol import Budget
from editgym.models.classifiers import SmallConvNet
from editgym.tasks.unlearning import own_networks
from editgym.weights import DenseUpdate, Mask, SiteEdit

# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path):
    """Three files of different networks, one of them written by `torch.save`."""
    files = []
    for seed in range(3):
        torch.manual_seed(seed)
        state = SmallConvNet(8, 4).state_dict()
        files.append(str(tmp_path / f"seed-{seed}.{'pt' if seed == 1 else 'safetensors'}"))
        torch.save(state, files[-1]) if seed == 1 else save_file(state, files[-1])
    return files


def test_several_checkpoints_are_networks(own, checkpoints, custom_arguments):
    task = own(weights=checkpoints, members="train")
    assert len({network.base_hash for network in task.networks}) == 3
    for network, file in zip(task.networks, checkpoints, strict=True):
        state = torch.load(file) if file.endswith("pt") else load_file(file)
        assert all(
            torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items()
        )
        assert task.evaluate(network.journal)["mia_advantage"] is not None
    arguments = custom_arguments | {"weights": checkpoints}
    env = gym.make("editgym:MaskWorld-v0", task="unlearning/custom", **arguments)
    assert env.unwrapped.choices == {"network": 3, "goal": 1}
    env.reset(seed=0, options={"network": 2})
    assert env.unwrapped.network.base_hash == task.networks[2].base_hash


def test_a_changed_checkpoint_among_several_is_read_anew(own, checkpoints):
    before = own(weights=checkpoints)
    torch.manual_seed(9)
    save_file(SmallConvNet(8, 4).state_dict(), checkpoints[2])
    after = own(weights=checkpoints)
    assert [
        a.base_hash == b.base_hash for a, b in zip(before.networks, after.networks, strict=True)
    ] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], r"weights must be a file, or a list of files, got \[\]"),
        ([3], r"weights must be a file, or a list of files, got \[3\]"),
        (["seed-0.safetensors", "no.pt"], "weights: no file at no.pt"),
        (["seed-0.safetensors", "copy.pt"], "seed-0.safetensors and copy.pt hold the same netw"),
    ],
)
def test_checkpoints_that_are_none_are_an_error(
    own, checkpoints, tmp_path, monkeypatch, weights, message
):
    monkeypatch.chdir(tmp_path)
    torch.save(load_file(checkpoints[0]), "copy.pt")
    with pytest.raises(ValueError, match=message):
        own(weights=weights)


def test_arguments_of_the_network_that_it_does_not_take_are_named(own):
    with pytest.raises(ValueError, match=r"model: .* cannot be made with model_kwargs .*'chanels'"):
        own(model_kwargs={"chanels": 3})


# --- the oracle -----------------------------------------------------------------------------------

ORACLES = """
import torch
import torch.nn.functional as F

CALLS = []


def trained(network, images, labels):
    CALLS.append(labels.tolist())
    assert network.training
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    return network


def nothing(network, images, labels):
    trained(network, images, labels)


def another(network, images, labels):
    return torch.nn.Linear(2, 2)


def diverged(network, images, labels):
    torch.nn.init.constant_(network.fc1.weight, float("inf"))
    return network


def as_it_was(network, images, labels):
    return network


def cheating(network, images, labels):
    from safetensors.torch import load_file

    network.load_state_dict(load_file("given.safetensors"))
    return network


NUMBER = 3
"""


@pytest.fixture
def oracles(tmp_path, monkeypatch):
    """The module `own_oracles`, importable while the test runs."""
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own_oracles.py").write_text(ORACLES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "own_oracles.py"
    sys.modules.pop("own_oracles", None)


def test_an_own_function_trains_the_oracle_once(own, oracles):
    task = own(retrain="own_oracles:trained", forget_class=1)
    calls = sys.modules["own_oracles"].CALLS
    network = task.networks[0].fresh()
    site = network.sites[0]
    network.apply(SiteEdit(site.name, Mask(), DenseUpdate(-torch.rand(*site.shape))))
    report = task.evaluate(network.journal)
    assert 0 < report["oracle_gap"] < 1
    retain = task.model_split()[0].labels
    assert calls == [retain.tolist()]
    assert 1 not in calls[0]
    oracle = task.oracle(0)
    sets = task.test_sets()
    logits = oracle(sets["retain"].inputs)
    assert float((logits.argmax(-1) == sets["retain"].labels).float().mean()) > 0.9
    assert not oracle.training
    assert len(calls) == 1, "it is read from the cache"
    again = own(retrain="own_oracles:trained", forget_class=1, model_seed=1).oracle(0)
    assert len(calls) == 2, "other images, another network"
    assert not torch.equal(again.fc1.weight, oracle.fc1.weight)


@pytest.fixture
def well_trained(own, oracles, tmp_path, monkeypatch):
    """Arguments with a network that knows all four classes, `given.safetensors`."""
    monkeypatch.chdir(tmp_path)
    train = own().splits.model
    importlib.import_module("own_oracles")
    with torch.enable_grad():
        network = SmallConvNet(8, 4).requires_grad_(True)
        sys.modules["own_oracles"].trained(network, train.inputs, train.labels)
    save_file(network.state_dict(), "given.safetensors")
    return {"weights": "given.safetensors", "forget_class": 1}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "as_it_was",
            r"retrain: the oracle of network 0, forget 1 has a retain accuracy of \d\d?\.\d%, and"
            r" the unedited network (9\d\.\d|100\.0)%, on test images",
        ),
        (
            "cheating",
            r"network 0, forget 1 has a forget accuracy of (9\d\.\d|100\.0)% on test imag",
        ),
    ],
)
def test_a_poor_oracle_is_noticed_once(own, well_trained, name, message):
    task = own(**well_trained, retrain=f"own_oracles:{name}")
    with pytest.warns(UserWarning, match=message) as caught:
        task.evaluate(task.networks[0].journal)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.evaluate(task.networks[0].journal)


def test_an_oracle_that_was_trained_as_the_network_was_is_no_poor_one(own, well_trained):
    samples = {"forget_class": None, "forget_indices": [3, 4, 5]}
    for goal in ({}, samples):
        task = own(**well_trained | goal, retrain="own_oracles:trained")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            task.evaluate(task.networks[0].journal)


def test_the_agent_retrain_is_that_function(own, oracles, custom_arguments):
    env = gym.make(
        "editgym:MaskWorld-v0",
        task="unlearning/custom",
        retrain="own_oracles:trained",
        forget_indices=[0, 5, 9],
        **custom_arguments,
    )
    agent = make_agent("retrain")
    agent.learn(env.spec, Budget(), seed=0)
    journal = agent.edit(env)
    assert env.unwrapped.task.evaluate(journal)["oracle_gap"] == pytest.approx(0, abs=1e-6)
    (labels,) = sys.modules["own_oracles"].CALLS
    assert len(labels) == len(env.unwrapped.task.splits.model) - 3


def test_a_changed_function_trains_anew(own, oracles):
    own(retrain="own_oracles:trained").oracle(0)
    oracles.write_text(ORACLES.replace("range(40)", "range(3)"))
    sys.modules.pop("own_oracles")
    task = own(retrain="own_oracles:trained", forget_class=0)
    task.oracle(0)
    assert len(sys.modules["own_oracles"].CALLS) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NUMBER", "retrain: 'own_oracles:NUMBER' is a int, and must be a function of a network"),
        ("traind", "retrain: cannot import .* has no 'traind'; write package.module:function"),
    ],
)
def test_what_is_no_function_is_refused_at_make(own, oracles, name, message):
    with pytest.raises(ValueError, match=message):
        own(retrain=f"own_oracles:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "returned a NoneType, and must return the trained network, an nn.Module"),
        ("another", r"whose tensor .* is not that of model=: .* beside"),
        ("diverged", "whose tensor 'fc1.weight' is not finite: its training diverged"),
    ],
)
def test_what_is_no_trained_network_is_refused_and_not_kept(own, oracles, tmp_path, name, message):
    with pytest.raises(ValueError, match=f"retrain: 'own_oracles:{name}' .*{message}"):
        own(retrain=f"own_oracles:{name}").oracle(0)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_an_oracle_that_is_handed_on_is_known_by_the_file_where_it_is_written(
    tmp_path, monkeypatch
):
    package = tmp_path / "handed_on"
    package.mkdir()
    (package / "__init__.py").write_text("from handed_on.work import retrain\n")
    (package / "work.py").write_text("def retrain(network, images, labels):\n    return network\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        importlib.import_module("handed_on")
        before = own_networks.code("handed_on:retrain")
        (package / "work.py").write_text("def retrain(n, x, y):\n    return n  # another\n")
        assert own_networks.code("handed_on:retrain") != before
        assert own_networks.code("handed_on:nothing") is not None
        assert own_networks.code("nowhere:retrain") is None
    finally:
        for name in ("handed_on", "handed_on.work"):
            sys.modules.pop(name, None)
