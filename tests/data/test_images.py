import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from editgym.data import images
from editgym.data.images import DataError, Labelled


def rows(data):
    return {image.tobytes() for image in data.inputs.numpy()}


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_1797_images_a_quarter_of_every_class_for_tests():
    data = images.digits()
    assert data.train.inputs.shape == (1347, 1, 8, 8)
    assert data.test.inputs.shape == (450, 1, 8, 8)
    shares = data.test.labels.bincount() / (
        data.test.labels.bincount() + data.train.labels.bincount()
    )
    torch.testing.assert_close(shares, torch.full((10,), 0.25), atol=0.01, rtol=0)
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 1)
    assert not rows(data.train) & rows(data.test)


def test_digits_and_their_division_are_those_of_scikit_learn():
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0
    )
    data = images.digits()
    for part, indices in zip((data.train, data.test), parts, strict=True):
        assert np.array_equal(
            part.inputs.flatten(1).numpy(), (pixels[indices] / 16).astype(np.float32)
        )
        assert np.array_equal(part.labels.numpy(), labels[indices])


# --- MNIST and CIFAR-10 ---------------------------------------------------------------------------


@pytest.fixture
def stub_mnist(empty_data_folder):
    """Files of MNIST's format with 20 and 10 small images."""
    folder = empty_data_folder / "images" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, number in (("train", 20), ("t10k", 10)):
        pixels = (np.arange(number * 16) % 256).astype(np.uint8)
        header = [
            np.array([kind, *shape], dtype=">i4").tobytes()
            for kind, shape in ((0x803, (number, 4, 4)), (0x801, (number,)))
        ]
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header[0] + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
            header[1] + bytes(range(10)) * (number // 10)
        )


@pytest.mark.usefixtures("stub_mnist")
def test_mnist_is_read_from_torchvisions_files():
    data = images.mnist()
    assert (data.train.inputs.shape, data.test.inputs.shape) == ((20, 1, 4, 4), (10, 1, 4, 4))
    assert data.train.inputs[1, 0, 0].tolist() == pytest.approx(
        [16 / 255, 17 / 255, 18 / 255, 19 / 255]
    )
    assert data.train.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(("load", "name"), [(images.mnist, "MNIST"), (images.cifar10, "CIFAR10")])
def test_data_that_is_nowhere_is_an_error_that_says_where_to_put_it(empty_data_folder, load, name):
    with pytest.raises(DataError, match=f"(?s){name} is not in .*no data.*EDITGYM_DATA"):
        load()


@pytest.mark.data("images/MNIST/raw/train-images-idx3-ubyte")
def test_mnist():
    data = images.mnist()
    assert data.train.inputs.shape[1:] == data.test.inputs.shape[1:] == (1, 28, 28)
    assert (data.train.inputs.min(), data.train.inputs.max()) == (0, 1)
    assert data.test.labels.bincount().min() > 0.05 * len(data.test)
    assert not rows(data.train) & rows(data.test)


def test_cifar10_is_read_from_an_npz_and_normalised(empty_data_folder):
    (empty_data_folder / "images").mkdir(parents=True)
    pixels = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    pixels[1, :, :, 2] = 255
    np.savez(
        empty_data_folder / "images" / "cifar10_tiny.npz",
        x_train=pixels,
        y_train=np.array([0, 1]),
        x_test=pixels,
        y_test=np.array([0, 1]),
    )
    data = images.cifar10()
    assert data.train.inputs.shape == (2, 3, 32, 32)
    assert data.train.inputs[0, :, 0, 0].tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )
    assert data.train.inputs[1, :, 0, 0].tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, 0.594 / 0.225]
    )


@pytest.mark.data("images/cifar10_subset.npz")
def test_cifar10():
    data = images.cifar10()
    assert (data.n_classes, data.train.inputs.shape[1:]) == (10, (3, 32, 32))
    torch.testing.assert_close(data.train.inputs.mean((0, 2, 3)), torch.zeros(3), atol=0.25, rtol=0)
    assert not rows(data.train) & rows(data.test)


# --- npz ------------------------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path, small_images):
    """`save(x_train=...)`: an npz of `small_images` with some arrays replaced, or left out where
    None is given."""

    def make(**changes):
        arrays = {
            key: value for key, value in (small_images | changes).items() if value is not None
        }
        np.savez(tmp_path / "images.npz", **arrays)
        return tmp_path / "images.npz"

    return make


def test_grey_bytes_become_one_channel_in_0_to_1(save, small_images):
    data = images.npz(save())
    assert data.train.inputs.shape == (120, 1, 8, 8)
    assert data.train.inputs.dtype == torch.float32
    np.testing.assert_allclose(
        data.train.inputs[:, 0].numpy(), small_images["x_train"] / 255, rtol=1e-6
    )
    assert data.test.labels.tolist() == small_images["y_test"].tolist()
    assert data.n_classes == 4


def test_channels_come_first_and_floats_are_taken_as_they_are(save):
    x = np.random.default_rng(0).normal(size=(40, 5, 6, 3))
    y = np.arange(40) % 2
    data = images.npz(save(x_train=x, y_train=y, x_test=x, y_test=y))
    np.testing.assert_allclose(data.test.inputs.numpy(), x.transpose(0, 3, 1, 2), rtol=1e-6)


def test_mean_and_std_normalise_every_channel(save, small_images):
    x = {
        key: np.full((len(small_images[key]), 2, 2, 3), 51, dtype=np.uint8)
        for key in ("x_train", "x_test")
    }
    data = images.npz(save(**x), mean=(0.1, 0.2, 0.0), std=(1.0, 0.5, 0.1))
    assert data.test.inputs[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.0, 2.0])


@pytest.mark.parametrize("key", images.NPZ_KEYS)
def test_npz_without_a_key_is_an_error_that_names_it(save, key):
    with pytest.raises(DataError, match=f"lacks {key}"):
        images.npz(save(**{key: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": np.zeros(120)},
        {"x_train": np.zeros((120, 8))},
        {"x_train": np.zeros((120, 1, 8, 8, 1))},
        {"y_train": np.zeros(119, dtype=int)},
        {"y_train": np.zeros((120, 4), dtype=int)},
        {"y_test": np.zeros(40)},
        {"x_test": np.zeros((0, 8, 8)), "y_test": np.zeros(0, dtype=int)},
    ],
)
def test_arrays_of_the_wrong_shape_are_an_error(save, changes):
    with pytest.raises(DataError, match=r"must be \(n, h, w\) or"):
        images.npz(save(**changes))


def pickled(path):
    np.savez(path, x_train=np.array([print], dtype=object))
    path.with_suffix(".npz.npz").rename(path) if path.with_suffix(".npz.npz").exists() else None


def npy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 8, 8)))


def cut(path):
    np.savez(path, x_train=np.random.default_rng(0).random((9, 8, 8)))
    path.write_bytes(path.read_bytes()[:400])


def damaged(path):
    np.savez_compressed(
        path, **dict.fromkeys(images.NPZ_KEYS, np.random.default_rng(0).random((9, 8, 8)))
    )
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x,y\n1,2\n"),
        lambda path: path.write_bytes(b""),
        npy,
        cut,
        damaged,
        pickled,
    ],
    ids=["text", "empty", "npy", "cut", "damaged", "pickled"],
)
def test_file_that_is_no_npz_is_an_error(tmp_path, write):
    path = tmp_path / "images.npz"
    write(path)
    with pytest.raises(DataError, match="not a readable npz"):
        images.npz(path)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no file at"):
        images.npz(tmp_path / "nothing.npz")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_named(save, bad):
    x = np.random.default_rng(0).random((6, 4, 4)).astype(np.float32)
    x[3, 1, 2] = x[5, 0, 0] = bad
    fine = np.ones((6, 4, 4), np.float32)
    y = np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(DataError, match=r"x_test has pixels .* in 2 of 6 .* first at 3"):
        images.npz(save(x_train=fine, y_train=y, x_test=x, y_test=y))


def test_test_images_are_made_as_training_images_are(save, small_images):
    floats = small_images["x_test"] / np.float32(255)
    with pytest.raises(DataError, match=r"x_train is uint8 of .*, x_test float"):
        images.npz(save(x_test=floats))
    both = {"x_train": small_images["x_train"] / np.float32(1), "x_test": floats}
    with pytest.raises(DataError, match=r"the largest pixel of x_train is .* and of x_test"):
        images.npz(save(**both))


def test_channels_first_are_refused_with_what_to_do(save):
    x = np.zeros((6, 3, 8, 8), np.uint8)
    y = np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(DataError, match=r"channels first; .*x_train.transpose\(0, 2, 3, 1\)"):
        images.npz(save(x_train=x, y_train=y, x_test=x, y_test=y))


def test_labels_from_one_are_refused_with_what_to_do(save, small_images):
    ones = {key: small_images[key] + 1 for key in ("y_train", "y_test")}
    with pytest.raises(DataError, match=r"labels 1 … \d and no 0.*subtract 1"):
        images.npz(save(**ones))


# --- folders of images ----------------------------------------------------------------------------


@pytest.fixture
def image_folder(tmp_path):
    """Three red and three blue images for training, one of each for tests."""
    for split, number in (("train", 3), ("test", 1)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (12, 9), colour).save(folder / f"{i}.png")
    return tmp_path


def test_folder_of_images_is_read_resized_in_order_of_classes(image_folder):
    data = images.image_folder(image_folder, 6)
    assert (data.train.inputs.shape, data.test.inputs.shape) == ((6, 3, 6, 6), (2, 3, 6, 6))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.train.inputs[0, :, 3, 3].tolist() == [0, 0, 1]
    assert data.train.inputs[-1, :, 3, 3].tolist() == [1, 0, 0]
    normalised = images.image_folder(image_folder, 6, (0.5, 0.5, 0.5), (0.5, 0.5, 0.25))
    assert normalised.train.inputs[0, :, 3, 3].tolist() == [-1, -1, 2]
    assert data.n_classes == 2


def test_folder_whose_classes_differ_is_an_error(image_folder):
    (image_folder / "test" / "red").rename(image_folder / "test" / "green")
    with pytest.raises(
        DataError, match=r"\['blue', 'red'\] in train but \['blue', 'green'\] in test"
    ):
        images.image_folder(image_folder, 6)


@pytest.mark.parametrize("gone", ["train", "test"])
def test_folder_without_a_split_is_an_error(image_folder, gone):
    (image_folder / gone).rename(image_folder / "other")
    with pytest.raises(DataError, match=f"{gone} must hold one folder of images per class"):
        images.image_folder(image_folder, 6)


def test_class_without_images_is_an_error(image_folder):
    (image_folder / "test" / "red" / "0.png").unlink()
    with pytest.raises(DataError, match="red"):
        images.image_folder(image_folder, 6)


# --- samples --------------------------------------------------------------------------------------


def test_samples_are_chosen_and_joined_with_their_labels():
    data = Labelled(torch.arange(8.0).view(4, 2), torch.arange(4))
    assert data[torch.tensor([2, 0])].inputs.tolist() == [[4, 5], [0, 1]]
    joined = Labelled.join(data[data.labels > 2], data[data.labels < 1])
    assert (len(joined), joined.labels.tolist(), joined.inputs.tolist()) == (
        2,
        [3, 0],
        [[6, 7], [0, 1]],
    )


def test_a_negative_label_is_an_error(save):
    with pytest.raises(images.DataError, match="y_test has the label -1"):
        images.npz(save(y_test=np.full(40, -1)))


def test_a_label_beyond_those_of_the_training_data_is_an_error(save):
    with pytest.raises(
        images.DataError, match=r"y_test has the label 4, and the largest of y_train is 3"
    ):
        images.npz(save(y_test=np.arange(40) % 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (0.1,)}, "mean and std go together"),
        ({"mean": (0.1, 0.2), "std": (1.0, 1.0)}, "one number for each of 1 channels"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_an_error(save, arguments, message):
    with pytest.raises(images.DataError, match=message):
        images.npz(save(), **arguments)


def test_whole_numbers_that_are_no_bytes_are_no_images(save, small_images):
    whole = {name: small_images[name].astype(np.int64) for name in ("x_train", "x_test")}
    with pytest.raises(images.DataError, match="must be uint8 or floating point"):
        images.npz(save(**whole))


def test_an_image_that_is_torn_is_named(image_folder):
    file = image_folder / "train" / "red" / "1.png"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match=r"train.red.1\.png is no image that can be read"):
        images.image_folder(image_folder, 8)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.uint8])
def test_samples_of_every_type_have_a_hash(kind):
    inputs, labels = torch.arange(6).reshape(2, 3).to(kind), torch.tensor([0, 1])
    one = images.Labelled(inputs, labels).content_hash()
    assert one == images.Labelled(inputs.clone(), labels).content_hash()
    others = [
        images.Labelled(inputs + 1, labels),
        images.Labelled(inputs.float(), labels),
        images.Labelled(inputs.reshape(2, 3, 1), labels),
    ]
    assert one not in [other.content_hash() for other in others]
