"""Image classification data: scikit-learn's digits, MNIST, CIFAR-10, an npz file or an
ImageFolder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock

from editgym.data.errors import DataError as DataError
from editgym.data.image_data import ImageData as ImageData
from editgym.data.image_data import Labelled as Labelled
from editgym.data.image_data import labelled
from editgym.data.image_folders import image_folder as image_folder
from editgym.data.npz_images import NPZ_KEYS as NPZ_KEYS
from editgym.data.npz_images import npz as npz
from editgym.paths import data_folder

if TYPE_CHECKING:
    import torchvision

_DIGITS = Path(__file__).parent / "digits.npz"
CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def digits() -> ImageData:
    """The 1,797 real 8×8 images of scikit-learn, in 0–1; a fixed quarter of each class is the test
    set.

    They are bundled, with their division, and equal what `sklearn.datasets.load_digits` gives and
    `train_test_split` draws (stratified, `random_state=0`): its import takes two seconds. By E.
    Alpaydin and C. Kaynak, UCI repository (1998), under CC BY 4.0.
    """
    with np.load(_DIGITS) as file:
        x = torch.from_numpy((file["images"] / 16).astype(np.float32)).unsqueeze(1)
        y = torch.from_numpy(file["labels"].astype(np.int64))
        train, test = (torch.from_numpy(file[part].astype(np.int64)) for part in ("train", "test"))
    return ImageData(Labelled(x[train], y[train]), Labelled(x[test], y[test]), 10)


def mnist() -> ImageData:
    """MNIST by torchvision from `EDITGYM_DATA/images`, downloaded there when missing; pixels in
    0–1.
    """
    import torchvision

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
    import torchvision

    folder = data_folder() / "images"
    files = sorted(folder.glob("cifar10*.npz"))
    if files and not (folder / "cifar-10-batches-py").is_dir():
        return named_cifar10(npz(files[0], mean=CIFAR_MEAN, std=CIFAR_STD))
    parts = [_torchvision(torchvision.datasets.CIFAR10, train=train) for train in (True, False)]
    train, test = (
        labelled(part.data, np.asarray(part.targets), CIFAR_MEAN, CIFAR_STD) for part in parts
    )
    return named_cifar10(ImageData(train, test, 10))


def named_cifar10(data: ImageData) -> ImageData:
    """The same images with the classes' names of CIFAR-10, where they are ten and have none."""
    if data.classes or data.n_classes != len(CIFAR_CLASSES):
        return data
    return replace(data, classes=CIFAR_CLASSES)


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
