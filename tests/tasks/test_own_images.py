"""`unlearning/custom` with all that a practitioner may bring: samples to forget, class names, a
policy split, members."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from editgym.data import images
from editgym.models.classifiers import SmallConvNet
from editgym.tasks import make_task


def images_of(data):
    """Images as bytes 0–255, (n, 8, 8), as they stand in the file."""
    return (data.inputs[:, 0] * 255).round().to(torch.uint8).numpy()


def rows_of(data, small_images):
    """The rows of `x_train` that these images are."""
    known = {image.tobytes(): row for row, image in enumerate(small_images["x_train"])}
    return sorted(known[image.tobytes()] for image in images_of(data))


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrays", "arguments"),
    [
        (None, {"forget_indices": [90, 4, 17]}),
        ({"forget": np.array([17, 90, 4])}, {}),
        ({"forget": np.isin(np.arange(120), [4, 17, 90])}, {}),
        ({"forget": np.array([1])}, {"forget_indices": [4, 90, 17]}),
        (None, {"forget_indices": [90, 4, 17], "stratified": True, "model_seed": 3}),
    ],
)
def test_given_samples_are_forgotten(own, small_images, arrays, arguments):
    task = own(arrays, **arguments)
    (goal,) = task.goals
    sets = {name: rows_of(task.pool[rows], small_images) for name, rows in goal.members.items()}
    assert sets["forget"] == [4, 17, 90]
    assert sorted(sets["forget"] + sets["retain"]) == rows_of(task.splits.model, small_images)
    assert sets["unseen"] == rows_of(task.splits.policy, small_images)
    assert goal.label == "forget samples 4, 17, 90"
    assert rows_of(task.model_split()[1], small_images) == [4, 17, 90]
    assert task.set_names == ("retain", "forget", "unseen")


@pytest.mark.parametrize("arguments", [{"forget_class": 2}, {"goals": [2]}])
def test_a_class_that_is_named_goes_before_the_files_samples(own, arguments):
    task = own({"forget": np.array([4])}, **arguments)
    assert [goal.label for goal in task.goals] == ["forget 2"]


def test_random_samples_go_before_the_files_samples(own):
    assert own({"forget": np.array([4])}, forget_samples=7).goals[0].label == "forget 7 samples"


def test_by_default_class_0_is_forgotten(own):
    assert own().goals[0].label == "forget 0"


@pytest.mark.parametrize("other", [{"forget_class": 0}, {"goals": [1]}, {"forget_samples": 3}])
def test_samples_beside_another_thing_to_forget_are_an_error(own, other):
    with pytest.raises(ValueError, match=f"forget_indices: {next(iter(other))} is given too"):
        own(forget_indices=[1], **other)


def test_samples_of_a_trained_task_are_those_of_its_model_split():
    plain = make_task("unlearning/digits")
    known = {image.numpy().tobytes() for image in plain.splits.model.inputs}
    train = images.digits().train
    inside = [row for row, image in enumerate(train.inputs) if image.numpy().tobytes() in known]
    outside = next(row for row in range(len(train)) if row not in inside)
    task = make_task("unlearning/digits", forget_indices=inside[:3])
    assert torch.equal(
        task.model_split()[1].labels.sort().values, train.labels[inside[:3]].sort().values
    )
    assert torch.equal(task.splits.model.inputs, plain.splits.model.inputs)
    with pytest.raises(ValueError, match=f"rows {outside} of the training data are not in the mod"):
        make_task("unlearning/digits", forget_indices=[inside[0], outside])
    with pytest.raises(ValueError, match=r"forget_indices: networks \[0, 1\]"):
        make_task("unlearning/digits", forget_indices=inside[:3], networks=[0, 1])


# --- names and parts ------------------------------------------------------------------------------


def test_classes_are_forgotten_by_name(own):
    named = own({"classes": np.array(["ant", "bee", "cow", "dog"])}, forget_class="cow")
    assert named.forget == ((2,),)
    assert named.goals[0].label == "forget cow"
    numbered = own({"classes": np.array(["ant", "bee", "cow", "dog"])}, goals=[2, [0, 1]])
    assert [goal.label for goal in numbered.goals] == ["forget 2", "forget 0, 1"]
    mixed = own({"classes": np.array(["ant", "bee", "cow", "dog"])}, goals=[2, ["bee", 0]])
    assert [goal.label for goal in mixed.goals] == ["forget cow", "forget ant, bee"]
    with pytest.raises(ValueError, match="there is no class 'cwo'"):
        own({"classes": np.array(["ant", "bee", "cow", "dog"])}, forget_class="cwo")


def test_a_part_of_the_file_is_used_as_it_is(own, small_images):
    x, y = small_images["x_test"][:12], small_images["y_test"][:12]
    task = own({"x_policy": x, "y_policy": y})
    assert np.array_equal(images_of(task.pool), x)
    assert (len(task.splits.model), len(task.splits.validation)) == (102, 18)
    task = own({"x_policy": x, "y_policy": y, "x_validation": x[:4], "y_validation": y[:4]})
    assert rows_of(task.splits.model, small_images) == list(range(120))
    assert task.splits.validation.labels.tolist() == y[:4].tolist()


def test_stratified_splits_have_what_random_ones_lack(own, small_images):
    rare = {"y_train": np.where(np.arange(120) < 117, small_images["y_train"] % 3, 3)}
    with pytest.raises(ValueError, match=r"has no forget sample .*stratified=true"):
        own(rare, forget_class=3, model_seed=1)
    task = own(rare, forget_class=3, model_seed=1, stratified=True)
    parts = (task.splits.model, task.splits.policy, task.splits.validation)
    assert [int((part.labels == 3).sum()) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 3}, "channels: 3 says how the images of a folder are read"),
        ({"mean": 0.5, "std": 0.5}, "mean must be a list of finite numbers"),
        ({"data": "nowhere:load", "mean": [0.5], "std": [0.5]}, "mean, std: what nowhere:load ret"),
    ],
)
def test_arguments_that_say_nothing_of_the_data_are_an_error(own, arguments, message):
    with pytest.raises(ValueError, match=message):
        own(**arguments)


# --- what is known of the training ----------------------------------------------------------------


def test_nothing_is_said_of_membership_unless_it_is_known(own, small_images):
    x, y = small_images["x_test"], small_images["y_test"]
    policy = {"x_policy": x[:20], "y_policy": y[:20]}
    for arrays, arguments, known in (
        ({}, {}, False),
        ({}, {"members": "train"}, True),
        ({}, {"members": list(range(100))}, True),
        ({"members": np.arange(120) < 100}, {}, True),
        (policy, {"forget_indices": [3, 4, 5]}, False),
        (policy, {"forget_indices": [3, 4, 5], "members": "train"}, True),
    ):
        task = own(arrays, **arguments)
        report = task.evaluate(task.networks[0].journal)
        assert (report["mia_advantage"] is not None) == known
        assert report["oracle_gap"] is None


def test_members_are_the_model_split(own, small_images):
    task = own(members=[*range(0, 60), 80])
    assert rows_of(task.splits.model, small_images) == [*range(60), 80]
    seen = set(rows_of(task.splits.policy, small_images))
    seen |= set(rows_of(task.splits.validation, small_images))
    assert seen == {*range(60, 80), *range(81, 120)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": "all"}, "members must be \"train\", or a list of training samples, got 'all'"),
        ({"members": [1, 200]}, r"members: 200 is no row of /.*\.npz, 0 to 119"),
        (
            {"members": list(range(120))},
            r"members: 120 of 120 training images of /.*\.npz leave none",
        ),
        (
            {"members": list(range(60)), "forget_indices": [3, 77]},
            r"forget_indices: rows 77 of /.*\.npz are not in the model split",
        ),
        ({"members": "train", "forget_indices": [3]}, "members: .*give x_policy"),
        ({"members": "train", "forget_samples": 3}, "members: .*give x_policy"),
    ],
)
def test_members_at_odds_are_an_error(own, arguments, message):
    with pytest.raises(ValueError, match=message):
        own(**arguments)


# --- folders --------------------------------------------------------------------------------------


@pytest.fixture
def animals(tmp_path):
    """A folder of 12 + 4 images of each of three animals, all in shades of grey."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for shade, name in ((40, "cat"), (110, "dog"), (180, "frog")):
            (tmp_path / "animals" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 60, (9, 9), dtype=np.uint8) + np.uint8(shade)
                Image.fromarray(pixels).save(tmp_path / "animals" / split / name / f"{i}.png")
    return tmp_path / "animals"


def test_files_and_folders_names_say_what_to_forget(own, animals):
    grey = {"data": str(animals), "image_size": 8, "model_kwargs": {"image_size": 8}}
    torch.manual_seed(0)
    save_file(SmallConvNet(8).state_dict(), animals.parent / "ten.safetensors")
    grey["weights"] = str(animals.parent / "ten.safetensors")
    assert own(**grey, forget_class="dog").forget == ((1,),)
    task = own(**grey, forget_indices=["dog/3.png", "cat/11.png"])
    expected = [
        np.asarray(Image.open(animals / "train" / name).resize((8, 8), Image.Resampling.BILINEAR))
        for name in ("cat/11.png", "dog/3.png")
    ]
    found = images_of(task.model_split()[1])
    assert sorted(image.tobytes() for image in found) == sorted(
        image.tobytes() for image in expected
    )
    with pytest.raises(ValueError, match=r"'dog/3.jpg' is no row .*such as 'dog/3.png'"):
        own(**grey, forget_indices=["dog/3.jpg"])


def test_an_image_that_changed_is_read_anew(own, animals):
    torch.manual_seed(0)
    save_file(SmallConvNet(8).state_dict(), animals.parent / "ten.safetensors")
    arguments = {
        "data": str(animals),
        "image_size": 8,
        "model_kwargs": {"image_size": 8},
        "weights": str(animals.parent / "ten.safetensors"),
    }
    before = own(**arguments)
    assert own(**arguments) is before
    Image.new("L", (12, 12), 7).save(animals / "train" / "dog" / "3.png")
    assert own(**arguments) is not before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 3}, "data must be an npz file, a folder, or package.module:function, got 3"),
        ({"data": ""}, "data must be an npz file, .* got ''"),
        ({"model_kwargs": [1]}, r"model_kwargs must be the arguments of model by name.* got \[1\]"),
        (
            {"model_kwargs": {"image_size": 8, "n_classes": -3}},
            "cannot be made with .*RuntimeError",
        ),
        ({"model": ""}, "model: '' is no import path and no folder"),
        ({"weights": ""}, "weights must be a file, or a list of files, got ''"),
        ({"model_seed": 1.5}, "model_seed must be a whole number .* got 1.5"),
        ({"model_seed": 2**70}, "model_seed must be a whole number of at most 63 bits"),
        ({"stratified": "yes"}, "stratified must be one of True, False, got 'yes'"),
        ({"image_size": 0}, "image_size must be 1 or more"),
        ({"goals": [2, 0, 2]}, "goals: 2 is there twice"),
        ({"goals": [[1, 2], [2, 1]]}, r"goals: \[2, 1\] is there twice"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_their_names(own, changes, message):
    with pytest.raises(ValueError, match=message):
        own(**changes)


def test_data_of_one_class_and_rows_of_data_are_refused_by_their_file(own):
    ones = {"y_train": np.zeros(120, int), "y_test": np.zeros(40, int)}
    with pytest.raises(ValueError, match=r"data: .*more.npz has one class, and what is forgotten"):
        own(ones)
    with pytest.raises(ValueError, match=r"data: forget: rows 100 of /.*more\.npz are not"):
        own({"forget": np.array([100])}, members=list(range(60)))
    names = np.array(["a", "b", "c", "d", "e"])
    with pytest.raises(
        ValueError, match=r"data: .*more.npz has 5 names of classes, but SmallConvNet has only 4"
    ):
        own({"classes": names})
