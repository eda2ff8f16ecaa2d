"""Image classification data: scikit-learn's digits, MNIST, CIFAR-10, an npz file or an
ImageFolder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from filelock import FileLock
from torch import Tensor

from editgym.data.errors import DataError as DataError
from editgym.paths import data_folder

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Labelled:
    """Inputs and their classes.

    Attributes:
        inputs: (n, ...) of the type that the network takes: images float32, bags of words uint8,
            tokens int64.
        labels: (n,) int64.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Labelled:
        return Labelled(self.inputs[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> Labelled:
        """The same samples on another device."""
        return Labelled(self.inputs.to(device), self.labels.to(device))

    @staticmethod
    def join(*parts: Labelled) -> Labelled:
        """All samples of `parts`, in order."""
        return Labelled(
            torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts])
        )


@dataclass(frozen=True)
class ImageData:
    """A data set with its official division: `train` may be learnt from, `test` is for reports
    alone.
    """

    train: Labelled
    test: Labelled
    n_classes: int


def digits() -> ImageData:
    """The 1,797 real 8×8 images inside scikit-learn, in 0–1; a fixed quarter of each class is the
    test set.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy((images / 16).astype(np.float32)).view(-1, 1, 8, 8)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0
    )
    y = torch.from_numpy(labels.astype(np.int64))
    return ImageData(Labelled(x[train], y[train]), Labelled(x[test], y[test]), 10)


def mnist() -> ImageData:
    """MNIST by torchvision from `EDITGYM_DATA/images`, downloaded there when missing; pixels in
    0–1.
    """
    parts = [_torchvision(torchvision.datasets.MNIST, train=train) for train in (True, False)]
    train, test = (
        Labelled((part.data.float() / 255).unsqueeze(1), part.targets.long()) for part in parts
    )
    return ImageData(train, test, 10)


def cifar10() -> ImageData:
    """CIFAR-10 from `EDITGYM_DATA/images`: torchvision's folder or a `cifar10*.npz`; downloaded
    when both are missing.

    Channels are normalised by mean .485 .456 .406 and standard deviation .229 .224 .225.
    """
    folder = data_folder() / "images"
    files = sorted(folder.glob("cifar10*.npz"))
    if files and not (folder / "cifar-10-batches-py").is_dir():
        return npz(files[0], mean=CIFAR_MEAN, std=CIFAR_STD)
    parts = [_torchvision(torchvision.datasets.CIFAR10, train=train) for train in (True, False)]
    train, test = (
        _from_arrays(part.data, np.asarray(part.targets), CIFAR_MEAN, CIFAR_STD) for part in parts
    )
    return ImageData(train, test, 10)


def npz(
    path: str | os.PathLike[str],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ImageData:
    """An npz with `x_train y_train x_test y_test`; images (n, h, w) or (n, h, w, c), uint8 or
    float, labels 0 … C−1.

    uint8 pixels are scaled to 0–1, then each channel is normalised by `mean` and `std` where given.

    Raises:
        DataError: The file is missing or damaged, lacks a key, a key has the wrong shape, or a
            label is out of range.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"data: no file at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key in NPZ_KEYS}
    except (
        Exception
    ) as error:  # zipfile, zlib, the header's tokenizer: numpy has no one error for a damaged file
        raise DataError(f"data: {path} is not a readable npz file: {error}") from error
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise DataError(f"data: {path} lacks {', '.join(missing)}; it needs {', '.join(NPZ_KEYS)}")
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if (
            x.ndim not in (3, 4)
            or y.shape != (len(x),)
            or not len(x)
            or not np.issubdtype(y.dtype, np.integer)
        ):
            raise DataError(
                f"data: {path}: x_{split} must be (n, h, w) or (n, h, w, c) and y_{split} n whole"
                f" numbers, got {x.shape} {x.dtype} and {y.shape} {y.dtype}"
            )
        if y.min() < 0:
            raise DataError(
                f"data: {path}: y_{split} has the label {y.min()}; labels are 0 … C - 1"
            )
        _check_pixels(path, f"x_{split}", x)
    _check_alike(path, arrays["x_train"], arrays["x_test"])
    labels = np.unique(arrays["y_train"])
    if labels[0] == 1 and labels[-1] == len(labels):
        raise DataError(
            f"data: {path}: y_train has the labels 1 … {labels[-1]} and no 0; labels are 0 … C - 1:"
            " subtract 1 from y_train and y_test"
        )
    last = arrays["y_train"].max()
    if arrays["y_test"].max() > last:
        raise DataError(
            f"data: {path}: y_test has the label {arrays['y_test'].max()}, and the largest of"
            f" y_train is {last}: a class that is tested must be in the training data"
        )
    train, test = (
        _from_arrays(arrays[f"x_{split}"], arrays[f"y_{split}"], mean, std)
        for split in ("train", "test")
    )
    return ImageData(train, test, int(train.labels.max()) + 1)


def _check_pixels(path: Path, name: str, x: np.ndarray) -> None:
    """Refuse images that no network could be trained on as they are."""
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] not in (1, 3, 4):
        raise DataError(
            f"data: {path}: {name} has the shape {x.shape}, channels first; give (n, h, w, c):"
            f" {name}.transpose(0, 2, 3, 1)"
        )
    if np.issubdtype(x.dtype, np.floating):
        bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
        if bad.any():
            raise DataError(
                f"data: {path}: {name} has pixels that are not finite, in {int(bad.sum())} of"
                f" {len(x)} images, the first at {int(bad.argmax())}"
            )


def _check_alike(path: Path, train: np.ndarray, test: np.ndarray) -> None:
    """Refuse test images that are not made as the training ones are."""
    if train.dtype != test.dtype or train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"data: {path}: x_train is {train.dtype} of {train.shape[1:]}, x_test {test.dtype} of"
            f" {test.shape[1:]}: make them alike"
        )
    if np.issubdtype(train.dtype, np.floating):
        most, other = float(np.abs(train).max()), float(np.abs(test).max())
        if max(most, other) > 16 * min(most, other):
            raise DataError(
                f"data: {path}: the largest pixel of x_train is {most:.4g} and of x_test"
                f" {other:.4g}: scale both alike, such as to 0 … 1"
            )


def image_folder(
    path: str | os.PathLike[str],
    image_size: int,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> ImageData:
    """`path/train/CLASS/*` and `path/test/CLASS/*` as torchvision's ImageFolder reads them,
    resized, RGB in 0–1.

    Raises:
        DataError: One of the two folders is missing or holds no images, or their classes differ.
    """
    path = Path(path).expanduser()
    to_tensor = torchvision.transforms.Compose(
        [torchvision.transforms.Resize((image_size, image_size)), torchvision.transforms.ToTensor()]
    )
    parts = []
    for split in ("train", "test"):
        try:
            parts.append(torchvision.datasets.ImageFolder(str(path / split), transform=to_tensor))
        except FileNotFoundError as error:
            raise DataError(
                f"data: {path / split} must hold one folder of images per class: {error}"
            ) from error
    if parts[0].classes != parts[1].classes:
        raise DataError(
            f"data: {path} has classes {parts[0].classes} in train but {parts[1].classes} in test"
        )
    stacked = [(_stacked(part), np.asarray(part.targets)) for part in parts]
    train, test = (
        _from_arrays(images.permute(0, 2, 3, 1).numpy(), y, mean, std) for images, y in stacked
    )
    return ImageData(train, test, len(parts[0].classes))


def _stacked(part: torchvision.datasets.ImageFolder) -> torch.Tensor:
    """All images of a folder, (n, 3, size, size).

    Raises:
        DataError: An image cannot be read; the message names it.
    """
    images = []
    for index, (file, _) in enumerate(part.samples):
        try:
            images.append(part[index][0])
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow says of a torn file
            raise DataError(f"data: {file} is no image that can be read: {error}") from error
    return torch.stack(images)


def _torchvision(
    dataset: type, *, train: bool
) -> torchvision.datasets.MNIST | torchvision.datasets.CIFAR10:
    folder = data_folder() / "images"
    try:
        return dataset(str(folder), train=train, download=False)
    except RuntimeError:
        pass  # torchvision says so when the files are not there
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):  # several processes may find it missing at once
            return dataset(str(folder), train=train, download=True)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{dataset.__name__} is not in {folder} and could not be downloaded ({error}): put "
            "torchvision's files there, or set EDITGYM_DATA to the folder above images/"
        ) from error


def _from_arrays(
    x: np.ndarray, y: np.ndarray, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Labelled:
    if (mean is None) != (std is None):
        raise DataError(f"mean and std go together, got mean {mean} and std {std}")
    images = torch.from_numpy(np.ascontiguousarray(x))
    if not images.is_floating_point() and images.dtype != torch.uint8:
        raise DataError(f"data: images must be uint8 or floating point, got {images.dtype}")
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if mean is not None and std is not None:
        if not len(mean) == len(std) == images.shape[1]:
            raise DataError(
                f"mean and std must have one number for each of {images.shape[1]} channels, got"
                f" {mean} and {std}"
            )
        shape = (-1, 1, 1)
        images = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    return Labelled(images.contiguous(), torch.from_numpy(y.astype(np.int64)))
