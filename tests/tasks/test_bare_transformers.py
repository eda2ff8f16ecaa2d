"""An image classifier of `transformers` is unlearned as it is, by the environments and agents."""

import json
import shutil
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from agents.catalogue import agent_class
from agents.protocol import Budget
from editgym.models.training import save_weights
from editgym.tasks import make_task
from editgym.tasks.unlearning import own_networks

SHAPE = {
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 1,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 4,
}
MODULE = f"""
from transformers import AutoModelForImageClassification, ViTConfig

def network():
    return AutoModelForImageClassification.from_config(ViTConfig(**{SHAPE}))
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory, small_images):
    """Arguments of `unlearning/custom` for a small ViT that was trained on small images."""
    folder = tmp_path_factory.mktemp("vit")
    (folder / "own_vit.py").write_text(MODULE)
    np.savez(folder / "images.npz", **small_images)
    x, y = (torch.from_numpy(small_images[f"{name}_train"]) for name in "xy")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageClassification.from_config(ViTConfig(**SHAPE))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(200):
            loss = F.cross_entropy(model(x.unsqueeze(1) / 255).logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_weights(model, folder / "model.safetensors", {})
    model.save_pretrained(folder / "saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield {
            "task": "unlearning/custom",
            "model": "own_vit:network",
            "weights": str(folder / "model.safetensors"),
            "data": str(folder / "images.npz"),
            "forget_class": 2,
            "batch_size": 32,
        }


@pytest.mark.parametrize("sites", [["classifier"], ["vit.layers.1.mlp.fc*"]])
def test_it_is_edited_reported_and_saved_as_it_is(own, sites):
    env = gym.make("editgym:MaskWorld-v0", sites=sites, **own)
    world = env.unwrapped
    env.reset(seed=0)
    env.action_space.seed(0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    network, images = world.network, world.task.pool.inputs
    assert network.reuses_prefix
    assert isinstance(network.base, ViTForImageClassification)
    model = ViTForImageClassification(ViTConfig(**SHAPE)).eval()
    model.load_state_dict(network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network.logits(images), model(images).logits)
    found = world.evaluate(world.journal).metrics
    assert found["test_accuracy_before"] > 0.9
    assert found["probe_accuracy"] is not None, "its last linear layer was found"
    assert np.isfinite(reward)
    assert info["retain_accuracy_before"] > 0.9


@pytest.mark.parametrize(
    "name", ["fine_tune", "gradient_ascent", "random_labels-site", "ssd", "salun", "scrub"]
)
def test_algorithms_of_unlearning_take_it(own, name):
    env = gym.make("editgym:ShiftWorld-v0", sites=["classifier"], **own)
    agent = agent_class(name)()
    agent.learn(env.spec, Budget(), 0)
    network = env.unwrapped.task.networks[0].fresh()
    unedited = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    journal = agent.edit(env)
    assert env.unwrapped.evaluate(journal).metrics["weights_changed"] > 0
    network.replay(journal)
    changed = [n for n, now in network.state_dict().items() if not torch.equal(now, unedited[n])]
    assert changed
    assert network.logits(env.unwrapped.task.pool.inputs).isfinite().all()


def test_candidates_of_a_vector_go_through_what_single_ones_do(own):
    vector = gym.make_vec("editgym:ShiftWorld-v0", num_envs=3, sites=["classifier"], **own)
    single = gym.make("editgym:ShiftWorld-v0", sites=["classifier"], **own)
    vector.reset(seed=5)
    vector.action_space.seed(0)
    actions = vector.action_space.sample()
    _, rewards, _, _, _ = vector.step(actions)
    for i in range(3):
        single.reset(seed=5 + i)
        assert single.step(actions[i])[1] == pytest.approx(rewards[i], abs=1e-5)


def test_a_probe_of_the_features_is_a_reward_too(own):
    env = gym.make("editgym:ShiftWorld-v0", sites=["vit.layers.1.mlp.fc2"], probe_weight=1.0, **own)
    env.reset(seed=0)
    action = np.zeros(env.action_space.shape, np.float32)
    reward = env.step(action)[1]
    plain = gym.make("editgym:ShiftWorld-v0", sites=["vit.layers.1.mlp.fc2"], **own)
    plain.reset(seed=0)
    assert 0 < plain.step(action)[1] - reward < 1 + 1e-5


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("saved", None),
        ("saved", "saved"),
        ("saved", "model.safetensors"),
        ("own_vit:network", "saved"),
        ("own_vit:network", "saved/model.safetensors"),
    ],
)
def test_a_folder_that_save_pretrained_wrote_is_a_network(own, monkeypatch, model, weights):
    monkeypatch.chdir(Path(own["data"]).parent)
    plain = make_task(own["task"], model=own["model"], weights=own["weights"], data=own["data"])
    given = {} if weights is None else {"weights": weights}
    task = make_task(own["task"], model=model, data="images.npz", **given)
    assert task.networks[0].base_hash == plain.networks[0].base_hash
    assert isinstance(task.networks[0].base, ViTForImageClassification)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_kwargs": {"num_labels": 3}}, r"model_kwargs: .* the config.json of the folder"),
        ({"model": "save"}, r"model: 'save' is no import path and no folder that is here"),
        ({"model": "empty", "weights": "saved"}, r"model: empty is no Hugging Face folder"),
        ({"weights": "empty"}, r"weights: empty does not fit .*: it is a folder without model.saf"),
        (
            {"data": "named.npz"},
            r"the classes are dog, cat, cow, elk, in this order, and the outputs of the network"
            r" .*id2label\) cat, dog, cow, elk: give images as an npz",
        ),
    ],
)
def test_folders_that_do_not_go_with_the_rest_are_refused(own, monkeypatch, changes, message):
    monkeypatch.chdir(Path(own["data"]).parent)
    Path("empty").mkdir(exist_ok=True)
    config = json.loads(Path("saved/config.json").read_text())
    config["id2label"] = dict(enumerate(["cat", "dog", "cow", "elk"]))
    config["label2id"] = {name: number for number, name in config["id2label"].items()}
    Path("named").mkdir(exist_ok=True)
    Path("named/config.json").write_text(json.dumps(config))
    Path("named/model.safetensors").write_bytes(Path("saved/model.safetensors").read_bytes())
    arrays = np.load("images.npz")
    np.savez("named.npz", **arrays, classes=np.array(["dog", "cat", "cow", "elk"]))
    with pytest.raises(ValueError, match=message):
        make_task(own["task"], **{"model": "named", "data": "images.npz"} | changes)


def test_pixels_that_the_folder_normalises_and_the_arguments_do_not(own, monkeypatch):
    monkeypatch.chdir(Path(own["data"]).parent)
    given = {"model": "normalised", "data": "images.npz"}
    shutil.copytree("saved", "normalised")
    Path("normalised/preprocessor_config.json").write_text(
        '{"image_mean": [0.5], "image_std": [0.2]}'
    )
    with pytest.warns(UserWarning, match=r"trained on pixels with mean=\[0.5\] and std=\[0.2\]"):
        make_task(own["task"], **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_task(own["task"], **given, mean=[0.5], std=[0.2])


def test_an_oracle_of_a_folder_is_trained_anew_for_another_config(own, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    before = own_networks.code(str(tmp_path))
    (tmp_path / "config.json").write_text('{"hidden_act": "relu"}')
    assert None not in {before, own_networks.code(str(tmp_path))}
    assert own_networks.code(str(tmp_path)) != before
