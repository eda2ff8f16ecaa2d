import gc
import sys
import weakref

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.tasks import TASKS, UnknownArgumentError, make_task
from editgym.tasks.catalogue import _builder
from editgym.weights import UnknownSiteError

# --- names and arguments --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_builder_with_docs(name):
    assert _builder(name).__doc__.startswith(f"`{name}`")


@pytest.mark.parametrize("name", ["unlearning/digit", "digits", "", "Unlearning/Digits"])
def test_unknown_task_names_the_nearest(name):
    with pytest.raises(
        ValueError,
        match=rf"task: there is no '{name}'; the nearest of {len(TASKS)} are .*unlearning/",
    ):
        make_task(name)


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_unknown_argument_is_also_the_type_error_of_python(kind):
    with pytest.raises(kind, match="unexpected keyword argument 'frameskip'") as caught:
        make_task("unlearning/digits", frameskip=1)
    assert type(caught.value) is UnknownArgumentError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"forget_clas": 3},
            r"unlearning/digits takes no argument 'forget_clas'; it takes .*mean forget_class\?\)",
        ),
        ({"weights": "x"}, "takes no argument 'weights'"),
        ({"forget_class": np.int64(3)}, r"forget_class must be plain JSON values.*serializable$"),
        ({"sites": {"fc2"}}, r"sites must be plain JSON values.*serializable$"),
        ({"goals": {1: 0, "a": 0}}, r"goals must be plain JSON values.*not supported between"),
        ({"sites": SmallConvNet}, r"import path: sites='my_module:SmallConvNet'$"),
        ({"sites": torch.nn.Linear(2, 2)}, r"import path: sites='my_module:Linear'$"),
        ({"data": "mine.npz"}, "; task='unlearning/cifar10' or 'unlearning/custom' takes them all"),
    ],
)
def test_argument_that_no_task_takes_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task("unlearning/digits", **arguments)


def test_unknown_site_lists_the_nearest():
    with pytest.raises(UnknownSiteError, match=r"'fc9'.*fc2 \(32 . 128, linear\)"):
        make_task("unlearning/digits", sites=["fc9"])


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "", "cpu:x"])
def test_device_that_is_not_there_is_an_error(device):
    with pytest.raises(ValueError, match=f"device: '{device}' is not"):
        make_task("unlearning/digits", device=device)


def test_equal_arguments_share_one_task_and_others_do_not():
    assert make_task("unlearning/digits", forget_class=3) is make_task(
        "unlearning/digits", forget_class=3
    )
    assert make_task("unlearning/digits", forget_class=3) is not make_task(
        "unlearning/digits", forget_class=4
    )


def test_task_is_loaded_again_from_another_data_folder(monkeypatch, tmp_path):
    before = make_task("unlearning/digits")
    monkeypatch.setenv("EDITGYM_DATA", str(tmp_path))
    assert make_task("unlearning/digits") is not before


# --- one's own network and images -----------------------------------------------------------------


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """An importable file with a network of one's own."""
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\ndef tiny(classes, channels=3):\n    return"
        " nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36,"
        " 16),\n                         nn.ReLU(), nn.Linear(16, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_networks:tiny"
    sys.modules.pop("my_networks", None)


@pytest.fixture
def image_folder(tmp_path):
    """12 training and 4 test images of each of three colours."""
    random = np.random.default_rng(0)
    for split, number in (("train", 12), ("test", 4)):
        for channel, name in enumerate(("red", "green", "blue")):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(0, 60, (10, 10, 3), dtype=np.uint8)
                pixels[..., channel] += 190
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i}.png")
    return tmp_path / "images"


def episode(arguments, world="MaskWorld-v0"):
    """One random edit of a custom task; reward, info and report."""
    env = gym.make(f"editgym:{world}", task="unlearning/custom", **arguments)
    env.reset(seed=0)
    env.action_space.seed(0)
    _, reward, terminated, _, info = env.step(env.action_space.sample())
    assert terminated
    assert np.isfinite(reward)
    return env.unwrapped, info, env.unwrapped.task.evaluate(env.unwrapped.journal)


@pytest.mark.parametrize("world", ["MaskWorld-v0", "ShiftWorld-v0"])
def test_own_network_and_npz_end_to_end(custom_arguments, world):
    env, info, report = episode(custom_arguments | {"forget_class": 2, "sites": ["fc*"]}, world)
    assert [site.name for site in env.task.networks[0].sites] == ["fc1", "fc2", "fc3"]
    assert {"retain_accuracy", "forget_accuracy"} <= info.keys() & report.keys()
    assert report["weights_changed"] > 0


def test_own_module_and_image_folder_end_to_end(own_module, image_folder, tmp_path):
    model = sys.modules.get("my_networks") or __import__("my_networks")
    torch.manual_seed(0)
    save_file(model.tiny(3).state_dict(), tmp_path / "tiny.safetensors")
    env, _, report = episode(
        {
            "model": own_module,
            "model_kwargs": {"classes": 3},
            "weights": str(tmp_path / "tiny.safetensors"),
            "data": str(image_folder),
            "image_size": 8,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        }
    )
    assert [site.name for site in env.task.networks[0].sites] == ["3"], (
        "the last hidden linear layer"
    )
    assert env.task.networks[0].reuses_prefix
    assert env.task.pool.inputs.shape[1:] == (3, 8, 8)
    assert env.task.pool.inputs.min() >= -1
    assert report["test_accuracy_before"] == pytest.approx(
        float(
            (
                env.task.networks[0].logits(env.task.splits.test.inputs).argmax(-1)
                == env.task.splits.test.labels
            )
            .double()
            .mean()
        )
    )


def test_own_network_is_loaded_from_its_weights(custom_arguments):
    from safetensors.torch import load_file

    network = make_task("unlearning/custom", **custom_arguments).networks[0]
    saved = load_file(custom_arguments["weights"])
    assert all(torch.equal(tensor, saved[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "path",
    [
        "no.such.module:Net",
        "editgym.models.classifiers:NoSuchNet",
        "editgym.models.classifiers",
        "",
        ":Net",
        ".classifiers:SmallConvNet",
    ],
)
def test_import_path_that_leads_nowhere_is_an_error(custom_arguments, path):
    with pytest.raises(ValueError, match=r"write package\.module:Class"):
        make_task("unlearning/custom", **custom_arguments | {"model": path})


def test_what_is_imported_must_make_a_module(custom_arguments):
    with pytest.raises(
        ValueError, match=r"model: 'builtins:dict' made a dict, expected an nn.Module"
    ):
        make_task("unlearning/custom", **custom_arguments | {"model": "builtins:dict"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "weights: no file at"),
        (b"", "does not fit"),
        (b"not safetensors at all", "does not fit"),
    ],
)
def test_weights_that_are_missing_or_no_safetensors_are_an_error(
    custom_arguments, tmp_path, content, message
):
    path = tmp_path / "other.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        make_task("unlearning/custom", **custom_arguments | {"weights": str(path)})


def test_weights_of_another_network_are_an_error(custom_arguments, tmp_path):
    save_file(ResNet20().state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError, match="does not fit SmallConvNet"):
        make_task(
            "unlearning/custom",
            **custom_arguments | {"weights": str(tmp_path / "resnet.safetensors")},
        )


@pytest.mark.parametrize("data", ["nothing.npz", "nothing"])
def test_data_that_is_missing_is_an_error(custom_arguments, data):
    with pytest.raises(ValueError, match="data: no file at"):
        make_task("unlearning/custom", **custom_arguments | {"data": data})


def test_folder_that_is_no_image_folder_is_an_error(custom_arguments, tmp_path):
    with pytest.raises(ValueError, match="must hold one folder of images per class"):
        make_task("unlearning/custom", **custom_arguments | {"data": str(tmp_path)})


def test_class_of_which_the_rewards_would_have_no_sample_is_an_error(
    custom_arguments, small_images, tmp_path
):
    arrays = dict(
        small_images, y_train=np.where(small_images["y_train"] == 3, 2, small_images["y_train"])
    )
    arrays["y_train"][0] = 3  # one sample: in the model split, with split seed 0
    task = make_task("unlearning/custom", **custom_arguments)
    where = (
        task.splits.model.inputs[:, 0] * 255 - torch.from_numpy(small_images["x_train"][0]).float()
    ).abs()
    assert bool((where.flatten(1).amax(1) < 0.5).any()), (
        "pick another sample: this one is not in the model split"
    )
    np.savez(tmp_path / "rare.npz", **arrays)
    with pytest.raises(ValueError, match="the policy split has no forget sample"):
        make_task(
            "unlearning/custom",
            **custom_arguments | {"data": str(tmp_path / "rare.npz"), "forget_class": 3},
        )


class Gate(nn.Module):
    """Branches on its data, so that torch.fx cannot trace it."""

    def __init__(self, classes):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 16), nn.Linear(16, classes)

    def forward(self, x):
        h = self.hidden(x.flatten(1))
        return self.head(h.relu() if h.mean() > 0 else h.tanh())


def test_network_that_branches_on_its_data_is_edited_all_the_same(
    custom_arguments, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "gate", sys.modules[__name__])
    save_file(Gate(4).state_dict(), tmp_path / "gate.safetensors")
    arguments = custom_arguments | {
        "model": "gate:Gate",
        "model_kwargs": {"classes": 4},
        "weights": str(tmp_path / "gate.safetensors"),
        "sites": ["hidden"],
    }
    with pytest.warns(UserWarning, match="Gate: every evaluation runs the whole network"):
        env, _, report = episode(arguments)
    test = env.task.splits.test
    with torch.no_grad():
        correct = (env.network.merged()(test.inputs).argmax(-1) == test.labels).double()
    assert report["test_accuracy"] == pytest.approx(float(correct.mean()))
    vector = gym.make_vec("MaskWorld-v0", num_envs=3, task="unlearning/custom", **arguments)
    vector.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, vector.action_space.shape).astype(np.float32)
    rewards = vector.step(actions)[1]
    for i, action in enumerate(actions):
        env.reset(seed=i)
        assert env.step(action)[1] == pytest.approx(rewards[i], abs=1e-5)


# --- what is kept ---------------------------------------------------------------------------------


def test_tasks_on_one_model_share_it_and_nobody_keeps_those_that_are_done_with(tiny_lm):
    one, other = (
        make_task("knowledge/factworld", model=tiny_lm, step_size=step) for step in (0.1, 0.2)
    )
    assert one is not other
    assert one.language is other.language
    assert make_task("knowledge/factworld", model=tiny_lm, step_size=0.1) is one
    gone = weakref.ref(other)
    latest = make_task("knowledge/factworld", model=tiny_lm, step_size=0.3)
    assert latest.language is one.language
    del other
    gc.collect()
    assert gone() is None


def test_the_latest_tasks_are_found_again_when_nobody_has_them(tiny_lm):
    for name, arguments in (
        ("knowledge/factworld", {"model": tiny_lm}),
        ("unlearning/digits", {"forget_class": 4}),
    ):
        known = weakref.ref(make_task(name, **arguments))
        gc.collect()
        assert make_task(name, **arguments) is known()


# --- a stranger's task ----------------------------------------------------------------------------


@pytest.fixture
def strangers_task(tmp_path, monkeypatch):
    """The import path of a builder in a folder outside the package."""
    (tmp_path / "strangers_task.py").write_text(
        "import torch\n\nfrom editgym.tasks.unlearning.images import digits\n\n\n"
        "def threes(device, model_seed=0):\n"
        "    return digits(device=device, forget_class=3, model_seed=model_seed)\n\n\n"
        "def drawing(device):\n    torch.rand(8)\n    return digits(device=device)\n\n\n"
        "def no_builder(size):\n    return size\n\n\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "strangers_task:threes"
    sys.modules.pop("strangers_task", None)


def test_a_strangers_task_is_made_by_import_path(strangers_task):
    env = gym.make("MaskWorld-v0", task=strangers_task, model_seed=1)
    assert env.unwrapped.task.goals[0].label == "forget 3"
    assert env.unwrapped.task is make_task(strangers_task, model_seed=1)


def test_what_a_builder_draws_is_nobody_elses(strangers_task):
    path = strangers_task.replace("threes", "drawing")
    before = torch.get_rng_state()
    gym.make("MaskWorld-v0", task=path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_strangers_task_is_made_in_other_processes(strangers_task):
    envs = gym.vector.AsyncVectorEnv(
        [lambda: gym.make("editgym:MaskWorld-v0", task=strangers_task)] * 2, context="spawn"
    )
    observations, _ = envs.reset(seed=0)
    envs.close()
    alone = gym.make("MaskWorld-v0", task=strangers_task).reset(seed=0)[0]
    assert (observations[0] == alone).all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("strangers_task:fours", {}, "has no 'fours'"),
        ("strangers_task:no_builder", {}, "is no builder of a task: a builder is a function of"),
        ("strangers_task:NUMBER", {}, "is no builder of a task"),
        ("strangers_task:threes", {"sites": ["fc2"]}, "takes no argument 'sites'; it takes device"),
        ("unlearning/digit", {}, "Your own builder is written package.module:builder"),
    ],
)
def test_what_is_no_strangers_task_is_an_error(strangers_task, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task(name, **arguments)


@pytest.mark.parametrize(
    "task", ["unlearning/digits", "unlearning/backdoor", "debiasing/templates"]
)
@pytest.mark.parametrize("seed", [2**70, 2**63, -1, 1.5, True])
def test_model_seeds_that_no_generator_takes_are_named(task, seed):
    with pytest.raises(ValueError, match=r"model_seed: .* must be model seeds, whole numbers fr"):
        make_task(task, model_seed=seed)


@pytest.mark.parametrize("returned", ["None", "{}", "[]"])
def test_a_builder_that_returns_no_task_is_told_what_it_returned(tmp_path, monkeypatch, returned):
    kind = {"None": "NoneType", "{}": "dict", "[]": "list"}[returned]
    name = f"builder_of_{kind.lower()}"
    (tmp_path / f"{name}.py").write_text(f"def build(device): return {returned}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=f"is a {kind}, and this environment needs a Task"):
        gym.make("editgym:ShiftWorld-v1", task=f"{name}:build")
