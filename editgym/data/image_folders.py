"""Images of one's own in folders, one for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from editgym.checks import one_of, optional, whole
from editgym.data.errors import DataError
from editgym.data.image_data import ImageData, checked_normalisation, labelled
from editgym.data.npz_images import OPTIONAL_PARTS

if TYPE_CHECKING:
    import torchvision

# Pillow's modes of pictures in shades of grey, and of those whose pixels are no bytes.
_GREY, _DEEP = ("1", "L", "LA"), ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def image_folder(
    path: str | os.PathLike[str],
    image_size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: int | None = None,
) -> ImageData:
    """`path/train/CLASS/*` and `path/test/CLASS/*` as torchvision's ImageFolder reads them,
    resized, in 0–1; `policy/` and `validation/` beside them where they are there.

    Args:
        path: The folder.
        image_size: Height and width that images are resized to.
        mean: Every channel's mean, to normalise with.
        std: Every channel's standard deviation.
        channels: 1 reads images as shades of grey, 3 as colours; None takes 1 where every file of
            the folder is grey, else 3.

    Raises:
        DataError: One of the two folders is missing or holds no images, their classes differ, a
            file is no image that can be read or has other pixels than bytes, or one part is grey
            throughout and another is not; the message names the file.
        ValueError: `image_size` or `channels` is out of range.
    """
    path = Path(path).expanduser()
    whole(1)("image_size", image_size)
    optional(one_of(1, 3))("channels", channels)
    shift, scale = checked_normalisation(mean, std)
    names = ["train", "test", *(part for part in OPTIONAL_PARTS if (path / part).is_dir())]
    parts = {name: _listed(path / name) for name in names}
    classes = parts["train"].classes
    for name, part in parts.items():
        if part.classes != classes:
            raise DataError(
                f"data: {path} has classes {classes} in train but {part.classes} in {name}"
            )
    channels = channels or _channels(path, parts)
    read = {
        name: labelled(_stacked(part, image_size, channels), np.asarray(part.targets), shift, scale)
        for name, part in parts.items()
    }
    files = tuple(
        Path(file).relative_to(path / "train").as_posix() for file, _ in parts["train"].samples
    )
    return ImageData(
        read["train"],
        read["test"],
        len(classes),
        read.get("policy"),
        read.get("validation"),
        tuple(classes),
        files,
        source=str(path),
    )


def _listed(folder: Path) -> torchvision.datasets.ImageFolder:
    """The files of a part, by class."""
    import torchvision

    _check_none_is_left_out(folder)
    try:
        return torchvision.datasets.ImageFolder(str(folder), loader=Image.open)
    except OSError as error:  # none, no folder, or one without classes or files
        raise DataError(
            f"data: {folder} must hold one folder of images per class: {error}"
        ) from error


def _check_none_is_left_out(folder: Path) -> None:
    """Refuse pictures that ImageFolder would pass over, for their place or the ending of their
    names.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    pictures = Image.registered_extensions()
    for inside, _, names in os.walk(folder):
        for name in names:
            file = Path(inside) / name
            suffix = file.suffix.lower()
            if suffix in pictures and suffix not in IMG_EXTENSIONS:
                raise DataError(
                    f"data: {file} is of a kind that is not read; the kinds are"
                    f" {' '.join(IMG_EXTENSIONS)}"
                )
            if suffix in IMG_EXTENSIONS and file.parent == folder:
                raise DataError(
                    f"data: {file} lies beside the folders of the classes; move it into one"
                )


def _channels(path: Path, parts: dict[str, torchvision.datasets.ImageFolder]) -> int:
    """1 where every file is grey, 3 where every part has one that is not."""
    coloured = {name: _first_in_colour(part) for name, part in parts.items()}
    grey = [name for name, file in coloured.items() if file is None]
    if grey and len(grey) < len(coloured):
        file = next(file for file in coloured.values() if file is not None)
        raise DataError(
            f"data: all images of {path / grey[0]} are grey, and {file} is not: make the parts"
            " alike, or say channels=1 or channels=3 to read all of them so"
        )
    return 1 if grey else 3


def _first_in_colour(part: torchvision.datasets.ImageFolder) -> str | None:
    """The first file that is not in shades of grey, by its header and palette."""
    for file, _ in part.samples:
        with _opened(file) as image:
            if image.mode not in _GREY and not _has_grey_palette(image, file):
                return file
    return None


def _has_grey_palette(image: Image.Image, file: str) -> bool:
    """Whether an image has a palette, of nothing but shades of grey."""
    try:
        palette = np.array(image.getpalette("RGB") or ()).reshape(-1, 3)
    except Exception as error:  # Pillow's readers of damaged files raise many kinds
        raise _unreadable(file, error) from error
    return len(palette) > 0 and bool((palette == palette[:, :1]).all())


def _opened(file: str) -> Image.Image:
    """A file as Pillow opens it: its header is read, its pixels not yet.

    Raises:
        DataError: It is no image, or its pixels are no bytes, which would be cut off at 255.
    """
    try:
        image = Image.open(file)
    except Exception as error:  # Pillow's readers of damaged files raise many kinds
        raise _unreadable(file, error) from error
    if image.mode in _DEEP:
        raise DataError(
            f"data: {file} has pixels of mode {image.mode}, which are no bytes: save it with 8 bits"
            " a channel"
        )
    return image


def _stacked(part: torchvision.datasets.ImageFolder, size: int, channels: int) -> np.ndarray:
    """All images of a part, (n, size, size, channels) in 0–1.

    Raises:
        DataError: An image cannot be read; the message names it.
    """
    import torchvision

    resized = torchvision.transforms.Compose(
        [torchvision.transforms.Resize((size, size)), torchvision.transforms.ToTensor()]
    )
    images = []
    for file, _ in part.samples:
        with _opened(file) as image:
            try:
                images.append(resized(image.convert("L" if channels == 1 else "RGB")))
            except Exception as error:  # Pillow's readers of damaged files raise many kinds
                raise _unreadable(file, error) from error
    return torch.stack(images).permute(0, 2, 3, 1).numpy()


def _unreadable(file: str, error: Exception) -> DataError:
    return DataError(f"data: {file} is no image that can be read: {error}")
