"""Images of one's own in folders: which are read how, and which are refused by their files."""

import shutil

import numpy as np
import pytest
from PIL import Image

from editgym.data.images import DataError, image_folder


@pytest.fixture
def folder(tmp_path):
    """`folder({"train": "L"}, parts=...)`: two classes of 8×8 images, in Pillow's mode of each
    part."""

    def make(modes=None, parts=("train", "test")):
        random = np.random.default_rng(0)
        for part in parts:
            for name in ("cat", "dog"):
                (tmp_path / "images" / part / name).mkdir(parents=True)
                for i in range(3):
                    pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                    image = Image.fromarray(pixels).convert((modes or {}).get(part, "RGB"))
                    image.save(tmp_path / "images" / part / name / f"{i}.png")
        return tmp_path / "images"

    return make


def test_parts_names_and_files_of_a_folder(folder):
    data = image_folder(folder(parts=("train", "test", "validation")), 8)
    assert data.classes == ("cat", "dog")
    assert data.files == tuple(f"{name}/{i}.png" for name in data.classes for i in range(3))
    assert data.policy is None
    assert data.validation is not None
    assert len(data.validation) == 6


@pytest.mark.parametrize(
    ("modes", "channels", "expected"),
    [
        ({}, None, 3),
        ({"train": "L", "test": "L"}, None, 1),
        ({"train": "LA", "test": "1"}, None, 1),
        ({"train": "RGBA", "test": "P"}, None, 3),
        ({"train": "L", "test": "L"}, 3, 3),
        ({}, 1, 1),
        ({"train": "L"}, 1, 1),
    ],
)
def test_grey_folders_have_one_channel_unless_said_otherwise(folder, modes, channels, expected):
    data = image_folder(folder(modes), 8, channels=channels)
    assert data.train.inputs.shape == data.test.inputs.shape == (6, expected, 8, 8)


def test_pixels_of_a_grey_file_are_its_own(folder):
    path = folder({"train": "L", "test": "L"})
    data = image_folder(path, 8)
    with Image.open(path / "train" / "dog" / "1.png") as image:
        np.testing.assert_allclose(data.train.inputs[4, 0].numpy(), np.asarray(image) / 255)


@pytest.mark.parametrize("grey", ["train", "test"])
def test_one_part_in_grey_beside_another_in_colour_is_refused(folder, grey):
    coloured = "test" if grey == "train" else "train"
    with pytest.raises(DataError, match=rf"{grey} are grey, and .*{coloured}.cat.0\.png is not"):
        image_folder(folder({grey: "L"}), 8)


def test_some_grey_images_among_coloured_ones_are_taken(folder):
    path = folder()
    for part in ("train", "test"):
        Image.new("L", (8, 8), 9).save(path / part / "cat" / "0.png")
    assert image_folder(path, 8).train.inputs.shape == (6, 3, 8, 8)


@pytest.mark.parametrize(("suffix", "depth"), [("png", np.uint16), ("tif", np.float32)])
def test_pixels_beyond_bytes_are_refused(folder, suffix, depth):
    path = folder()
    file = path / "train" / "dog" / f"9.{suffix}"
    Image.fromarray(np.full((8, 8), 3000, depth)).save(file)
    with pytest.raises(DataError, match=rf"dog.9\.{suffix} has pixels of mode .* with 8 bits"):
        image_folder(path, 8)


def test_images_that_would_be_left_out_are_named(folder):
    path = folder()
    (path / "train" / "dog" / "notes.txt").write_text("not an image")
    assert len(image_folder(path, 8).train) == 6
    Image.new("RGB", (8, 8)).save(path / "train" / "dog" / "9.gif")
    with pytest.raises(
        DataError, match=r"dog.9\.gif is of a kind that is not read; .*\.jpg.*\.png"
    ):
        image_folder(path, 8)


@pytest.mark.parametrize("part", ["train", "test", "validation"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_files_that_are_cut_are_named(folder, part, suffix):
    path = folder(parts=("train", "test", "validation"))
    file = path / part / "dog" / f"9.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"{part}.dog.9\.{suffix} is no image that can be read"):
        image_folder(path, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be 1 or more"),
        ({"image_size": "8"}, "image_size must be 1 or more"),
        ({"image_size": 8, "channels": 4}, "channels must be one of 1, 3, or None, got 4"),
    ],
)
def test_sizes_that_are_none_are_refused(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        image_folder(folder(), **arguments)


def test_a_part_that_is_a_file_or_has_no_images_is_named(folder):
    path = folder()
    for image in (path / "test" / "dog").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"images/test must hold one folder .* for the classes dog"):
        image_folder(path, 8)
    shutil.rmtree(path / "test")
    (path / "test").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/test must hold one folder of images per class: "):
        image_folder(path, 8)


def _with_palette(path, grey):
    """The folder's images with a palette, of shades of grey or of colours."""
    for file in path.rglob("*.png"):
        image = Image.open(file).convert("L" if grey else "RGB")
        image.convert("P", palette=Image.Palette.ADAPTIVE).save(file)
    return path


@pytest.mark.parametrize(("grey", "channels"), [(True, 1), (False, 3)])
def test_a_palette_of_greys_is_grey(folder, grey, channels):
    path = folder()
    plain = image_folder(path, 8, channels=channels)
    found = image_folder(_with_palette(path, grey), 8)
    assert found.train.inputs.shape[1] == channels
    if grey:
        assert np.allclose(found.train.inputs, plain.train.inputs, atol=1 / 255)
