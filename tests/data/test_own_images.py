"""Images of one's own, from an npz or a function: what they may bring along, and what is refused by
its file and row."""

import numpy as np
import pytest
import torch

from editgym.data.images import DataError, ImageData, Labelled, npz
from editgym.data.own_loaders import checked_own


@pytest.fixture
def saved(tmp_path, small_images):
    """`saved(x_train=...)`: an npz of `small_images` with some arrays replaced or added."""

    def make(**changes):
        np.savez(tmp_path / "images.npz", **small_images | changes)
        return tmp_path / "images.npz"

    return make


def floats(small_images, low=0.0, high=1.0):
    return {
        key: (low + (high - low) * small_images[key] / 255).astype(np.float32)
        for key in ("x_train", "x_test")
    }


# --- what an npz may bring along ------------------------------------------------------------------


def test_optional_arrays_are_read(saved, small_images):
    x, y = small_images["x_test"][:6], small_images["y_test"][:6]
    data = npz(
        saved(
            x_policy=x,
            y_policy=y,
            classes=np.array(["ant", "bee", "cow", "dog"]),
            forget=np.array([7, 3]),
            members=np.arange(120) % 2 == 0,
        )
    )
    assert data.classes == ("ant", "bee", "cow", "dog")
    assert data.forget == (7, 3)
    assert data.members == tuple(range(0, 120, 2))
    assert data.policy is not None
    np.testing.assert_allclose(data.policy.inputs[:, 0].numpy(), x / 255, rtol=1e-6)
    assert data.policy.labels.tolist() == y.tolist()
    assert data.validation is None


def test_names_may_be_bytes_and_more_than_the_classes_that_have_images(saved):
    data = npz(saved(classes=np.array(["ant", "bée", "cow", "dog", "elk"]).astype("U")))
    assert (data.n_classes, data.classes[1]) == (5, "bée")
    names = np.array([name.encode() for name in ("ant", "bée", "cow", "dog")])
    assert npz(saved(classes=names)).classes[1] == "bée"


def test_parts_are_normalised_alike(saved, small_images):
    part = {"x_policy": small_images["x_train"][:5], "y_policy": small_images["y_train"][:5]}
    data = npz(saved(**part), mean=(0.5,), std=(0.25,))
    assert torch.equal(data.policy.inputs, data.train.inputs[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_policy": np.zeros((3, 8, 8), np.uint8)}, "lacks y_policy: x_policy and y_policy go"),
        ({"y_validation": np.zeros(3, int)}, "lacks x_validation"),
        ({"classes": np.array(["ant", "bee"])}, "classes has 2 names, and labels are 0 … 3"),
        ({"classes": np.array(["a", "b", "a", "c"])}, "classes has the name 'a' twice"),
        ({"classes": np.arange(4)}, "classes must be the classes' names"),
        ({"forget": np.array([0.5])}, r"forget must be rows of x_train.*got \(1,\) float64"),
        ({"forget": np.ones(7, bool)}, r"True and False \(120,\), got \(7,\) bool"),
        ({"members": np.ones((3, 2), int)}, r"members must be rows of x_train"),
        (
            {"x_policy": np.zeros((3, 4, 4), np.uint8), "y_policy": np.arange(3)},
            r"x_train is uint8 of \(8, 8\), x_policy uint8 of \(4, 4\)",
        ),
        (
            {"x_policy": np.full((3, 8, 8), 200, np.uint8), "y_policy": np.array([0, 4, 1])},
            r"y_policy has the label 4, .*\(row 1\)",
        ),
    ],
)
def test_optional_arrays_that_are_wrong_are_named(saved, changes, message):
    with pytest.raises(DataError, match=rf"images\.npz.*{message}"):
        npz(saved(**changes))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda y: np.eye(4, dtype=int)[y], r"one-hot: give y_train\.argmax\(1\)"),
        (lambda y: np.eye(4, dtype=np.float32)[y], r"one-hot: give y_train\.argmax\(1\)"),
        (lambda y: y[:, None], r"give y_train\.ravel\(\)"),
        (lambda y: y.astype(np.float32), r"give y_train\.astype\(int\)"),
    ],
)
def test_labels_of_another_form_are_refused_with_what_to_do(saved, small_images, make, advice):
    with pytest.raises(DataError, match=rf"y_train n whole numbers, got .*{advice}"):
        npz(saved(y_train=make(small_images["y_train"])))


def test_a_labels_row_is_named(saved, small_images):
    y = small_images["y_train"].copy()
    y[[31, 90]] = -1
    with pytest.raises(DataError, match="y_train has the label -1 at row 31"):
        npz(saved(y_train=y))


def test_bytes_that_were_scaled_in_one_part_are_refused(saved, small_images):
    scaled = (small_images["x_test"] / 255).round().astype(np.uint8)
    with pytest.raises(DataError, match="largest pixel of x_train is 229 and of x_test 1: scale"):
        npz(saved(x_test=scaled))


@pytest.mark.parametrize("normalised", ["x_train", "x_test"])
def test_one_part_that_was_normalised_is_refused(saved, small_images, normalised):
    arrays = floats(small_images) | {normalised: floats(small_images, -1, 1)[normalised]}
    with pytest.raises(DataError, match=r"the pixels of x_train are from .* and of x_test from"):
        npz(saved(**arrays))


def test_parts_that_were_both_normalised_are_taken(saved, small_images):
    assert npz(saved(**floats(small_images, -1, 1))).train.inputs.min() == -1


@pytest.mark.parametrize("shape", [(4, 8, 8), (2, 16, 16), (3, 8, 10), (1, 8, 8)])
def test_channels_first_of_any_number_are_refused(saved, shape):
    x = np.full((8, *shape), 9, np.uint8)
    y = np.arange(8) % 2
    with pytest.raises(DataError, match=r"channels first; .*x_train\.transpose\(0, 2, 3, 1\)"):
        npz(saved(x_train=x, y_train=y, x_test=x, y_test=y))


@pytest.mark.parametrize("shape", [(8, 8, 2), (4, 4, 12), (3, 8, 3), (16, 8, 8)])
def test_channels_last_of_any_number_are_taken(saved, shape):
    x = np.full((8, *shape), 9, np.uint8)
    y = np.arange(8) % 2
    data = npz(saved(x_train=x, y_train=y, x_test=x, y_test=y))
    assert data.train.inputs.shape == (8, shape[2], *shape[:2])


def test_pixels_of_another_type_are_named(saved, small_images):
    x = small_images["x_train"].astype(np.int64)
    with pytest.raises(DataError, match=r"x_train must be uint8 or float.* int64 from .* to 229"):
        npz(saved(x_train=x))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.0,), r"std must be a list of finite numbers greater than 0, .*got \(0.0,\)"),
        ((0.5,), (-1.0,), "std must be"),
        ((float("nan"),), (1.0,), "mean must be a list of finite numbers, one for each channel"),
        (("0.5",), (1.0,), "mean must be"),
        ((), (), r"mean must be a list of finite numbers, .*got \(\)"),
        (0.5, 0.5, "mean must be a list"),
        (
            (123.7,),
            (58.4,),
            r"mean \(123.7,\) is for pixels in 0–255, .*divide mean and std by 255",
        ),
        ((0.5,), None, "mean and std go together"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(saved, mean, std, message):
    with pytest.raises(DataError, match=message):
        npz(saved(), mean=mean, std=std)


def test_a_normalisation_of_0_to_1_is_refused_for_floats_up_to_255(saved, small_images):
    arrays = floats(small_images, 0.0, 255.0)
    with pytest.raises(DataError, match="are for pixels in 0–1, and these go up to 229: divide"):
        npz(saved(**arrays), mean=(0.5,), std=(0.5,))
    data = npz(saved(**arrays), mean=(127.5,), std=(127.5,))
    assert float(data.train.inputs.min()) >= -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": np.zeros((120, 0, 8), np.uint8)},
            r"none of them 0, .* got \(120, 0, 8\) uint8",
        ),
        ({"x_train": np.zeros((120, 8, 8, 0), np.float32)}, r"got \(120, 8, 8, 0\) float32"),
        ({"x_train": np.array(3)}, r"x_train must be .* got \(\) int64 and \(120,\)"),
        (
            {"x_train": np.full((120, 8, 8), "a")},
            "x_train must be uint8 or floating point, got <U1",
        ),
        ({"x_train": np.full((120, 8, 8), 1e300)}, "x_train has pixels that are not finite"),
        ({"classes": np.array(["a", "b", "c"])}, "classes has 3 names, and labels are 0 … 3"),
        ({"classes": np.array([], "U1")}, "classes has 0 names"),
        ({"classes": np.array(["a", "", "b", "c"])}, "the name of class 1 in classes is empty"),
        (
            {"classes": np.array([b"a", b"\xff", b"b", b"c"])},
            r"name b'.xff' of class 1 .* no UTF-8",
        ),
        ({"forget": np.array([3, 500])}, "forget has the row 500 at 1; rows are 0 … 119"),
        ({"forget": np.array([-1])}, "forget has the row -1 at 0"),
        ({"forget": np.zeros(120, bool)}, "forget names no row"),
        ({"forget": np.array([1, 4, 1])}, "forget has the row 1 a second time at 2"),
        ({"members": np.array([], int)}, "members names no row"),
    ],
)
def test_what_would_be_a_raw_error_is_named(saved, changes, message):
    with pytest.raises(DataError, match=f"data: .*images.npz.*{message}"):
        npz(saved(**changes))


def test_numbers_that_torch_lacks_are_read(saved, small_images):
    plain = npz(saved(**floats(small_images)))
    for kind in (">f4", np.longdouble):
        arrays = {key: x.astype(kind) for key, x in floats(small_images).items()}
        found = npz(saved(**arrays, y_train=small_images["y_train"].astype(">i8")))
        assert torch.equal(found.train.inputs, plain.train.inputs)
        assert torch.equal(found.train.labels, plain.train.labels)


# --- a function of one's own ----------------------------------------------------------------------


def own(**changes):
    inputs = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    part = Labelled(inputs, torch.arange(6) % 2)
    return ImageData(**{"train": part, "test": part, "n_classes": 2} | changes)


def with_nan(row):
    part = own().train
    inputs = part.inputs.clone()
    inputs[row, 0, 1, 1] = torch.nan
    return Labelled(inputs, part.labels)


def test_data_of_ones_own_are_taken():
    found = checked_own(
        own(
            n_classes=np.int64(2),
            policy=own().test,
            classes=["a", "b"],
            files=np.array(list("uvwxyz")),
            forget=torch.tensor([3, 1]),
            members=np.arange(4),
        ),
        "mine:load",
    )
    assert (found.n_classes, found.classes, found.files) == (2, ("a", "b"), tuple("uvwxyz"))
    assert (found.forget, found.members) == ((3, 1), (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": with_nan(4)}, "the part 'test' has pixels that are not finite, .*first at 4"),
        ({"policy": with_nan(2)}, "the part 'policy' has pixels that are not finite"),
        ({"n_classes": 1}, "the part 'train' has the label 1 at row 1; with n_classes 1 labels"),
        (
            {"train": Labelled(torch.zeros(3, 1, 4, 4), torch.tensor([0, -1, 1]))},
            "label -1 at row 1",
        ),
        (
            {"test": Labelled(torch.zeros(3, 1, 4, 4), torch.zeros(2).long())},
            "give n inputs .* and n lab",
        ),
        ({"test": Labelled(torch.zeros(0, 1, 4, 4), torch.zeros(0).long())}, "at least one"),
        ({"test": Labelled(torch.zeros(2, 1, 4, 4), torch.zeros(2))}, "labels of torch.float32"),
        ({"classes": ("a", "b", "c")}, "classes has 3 names"),
        (
            {"test": Labelled(torch.ones(2, 1, 5, 4), torch.arange(2))},
            r"train is float32 of \(1, 4, 4\), test float32 of \(1, 5, 4\)",
        ),
        ({"test": Labelled(255 * own().test.inputs, own().test.labels)}, "the largest pixel of tr"),
        ({"n_classes": 2.0}, "n_classes must be the number of classes, a whole number, got 2.0"),
        ({"n_classes": None}, "n_classes must be .* got None"),
        ({"n_classes": True}, "n_classes must be .* got True"),
        ({"test": None}, "the part 'test' is a NoneType; make it a Labelled"),
        ({"policy": (own().test.inputs, own().test.labels)}, "the part 'policy' is a tuple"),
        ({"test": Labelled(np.zeros((2, 4, 4)), torch.arange(2))}, "'test' has inputs of type nda"),
        ({"test": Labelled(torch.zeros(2, 1, 4, 4), [0, 1])}, "'test' has labels of type list"),
        ({"test": Labelled(torch.ones(2, 1, 4, 4).to_sparse(), torch.arange(2))}, "are sparse"),
        (
            {"test": Labelled(torch.ones(2, 1, 4, 4, requires_grad=True), torch.arange(2))},
            "or learned; make them a plain tensor",
        ),
        ({"test": Labelled(torch.ones(2, 1, 0, 4), torch.arange(2))}, r"inputs \(2, 1, 0, 4\) and"),
        ({"test": Labelled(torch.ones(2), torch.arange(2))}, r"inputs \(2,\) and labels \(2,\)"),
        ({"test": Labelled(torch.tensor(1.0), torch.tensor(1))}, r"inputs \(\) and labels \(\)"),
        ({"classes": "ab"}, "classes must be names, a tuple of texts, got 'ab'"),
        ({"classes": (1, 2)}, r"classes must be names, a tuple of texts, got \(1, 2\)"),
        ({"classes": ("a", "")}, "the name of class 1 in classes is empty"),
        ({"files": ("a.png",)}, "files names 1 files, and the part 'train' has 6 rows"),
        ({"files": ("a",) * 6}, "files has 'a' twice"),
        ({"forget": (3, 9)}, "forget has the row 9 at 1; rows are 0 … 5"),
        ({"forget": (1.0,)}, r"forget must be rows of train, .* got \(1.0,\)"),
    ],
)
def test_data_of_ones_own_that_are_wrong_are_named(changes, message):
    with pytest.raises(DataError, match=f"data: mine:load.*{message}"):
        checked_own(own(**changes), "mine:load")
