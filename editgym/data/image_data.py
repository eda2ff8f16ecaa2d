"""What image data are: labelled samples, a data set with its divisions, and the checks that every
source of them passes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from editgym.data.errors import DataError

Numbers = tuple[float, ...]
_NUMPY_FLOATS = (torch.float16, torch.float32, torch.float64)  # NumPy has no bfloat16


@dataclass(frozen=True)
class Labelled:
    """Inputs and their classes.

    Attributes:
        inputs: (n, ...) of the type that the network takes: images float32, bags of words uint8,
            tokens int64.
        labels: (n,) int64; of a task with a `score` of its own, whatever form that takes.
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

    def content_hash(self) -> str:
        """SHA-256 over the samples and their labels, in order: the same wherever they are."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.labels):
            kind, array = _as_array(tensor.cpu().contiguous())
            digest.update(f"{kind} {tuple(tensor.shape)} ".encode())
            digest.update(array.data)
        return digest.hexdigest()

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

    Attributes:
        train: What the network was trained on, or may have been.
        test: What reports are made on.
        n_classes: The number of classes.
        policy: Samples for rewards; None draws them from `train`.
        validation: Samples to choose settings on; None draws them from `train`.
        classes: The classes' names, by their numbers; empty where they have none.
        files: The file of every training image, as its folder names it; empty where there are none.
        forget: Rows of `train` that are to be forgotten; None where the data do not say.
        members: Rows of `train` that the network was trained on; None where the data do not say.
        source: The file, folder or function that they were read from, for messages.
    """

    train: Labelled
    test: Labelled
    n_classes: int
    policy: Labelled | None = None
    validation: Labelled | None = None
    classes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    forget: tuple[int, ...] | None = None
    members: tuple[int, ...] | None = None
    source: str = "the training data"

    @property
    def parts(self) -> dict[str, Labelled]:
        """The parts that are there, by their names."""
        named = {
            "train": self.train,
            "test": self.test,
            "policy": self.policy,
            "validation": self.validation,
        }
        return {name: part for name, part in named.items() if part is not None}


def labelled(x: np.ndarray, y: np.ndarray, mean: Numbers | None, std: Numbers | None) -> Labelled:
    """Images (n, h, w) or (n, h, w, c) as a network takes them: float32, channels first, bytes
    scaled to 0–1, then each channel normalised.

    Args:
        x: Pixels, uint8 or floating point.
        y: Classes, (n,).
        mean: Every channel's mean; None leaves pixels as they are.
        std: Every channel's standard deviation.

    Raises:
        DataError: `mean` and `std` do not go with the pixels.
    """
    images = torch.from_numpy(np.ascontiguousarray(x))
    in_bytes = images.dtype == torch.uint8
    images = images.float() / 255 if in_bytes else images.float()
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if mean is not None and std is not None:
        _check_scale(images, in_bytes, mean, std)
        shape = (-1, 1, 1)
        images = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    return Labelled(images.contiguous(), torch.from_numpy(y.astype(np.int64)))


def checked_normalisation(mean: object, std: object) -> tuple[Numbers | None, Numbers | None]:
    """`mean` and `std` as tuples of numbers, or both None.

    Raises:
        DataError: One is given without the other, one is no list of finite numbers, or a standard
            deviation is not positive.
    """
    if (mean is None) != (std is None):
        raise DataError(f"mean and std go together, got mean {mean} and std {std}")
    if mean is None:
        return None, None
    return _numbers("mean", mean, -math.inf), _numbers("std", std, 0.0)


def check_finite(inputs: Tensor, place: str) -> None:
    """Refuse inputs that are not finite; the message names the first row.

    Raises:
        DataError: Some are not.
    """
    if not inputs.is_floating_point():
        return
    bad = ~inputs.float().isfinite().flatten(1).all(1)  # as the network takes them
    if bad.any():
        raise DataError(
            f"{place} has pixels that are not finite, in {int(bad.sum())} of {len(inputs)} images,"
            f" the first at {int(bad.nonzero()[0])}"
        )


def check_class_names(classes: tuple[str, ...], n_classes: int, place: str) -> None:
    """Refuse names that are not one for each class.

    Raises:
        DataError: Their number is another, one is empty, or two are alike.
    """
    if len(classes) != n_classes:
        raise DataError(
            f"{place}: classes has {len(classes)} names, and labels are 0 … {n_classes - 1}: give"
            f" one name for each of {n_classes} classes"
        )
    if "" in classes:
        raise DataError(f"{place}: the name of class {classes.index('')} in classes is empty")
    if repeated := sorted(name for name in set(classes) if classes.count(name) > 1):
        raise DataError(f"{place}: classes has the name {repeated[0]!r} twice; make names differ")


def check_rows(rows: tuple[int, ...] | None, total: int, place: str) -> None:
    """Refuse rows that are none of the training data's.

    Args:
        rows: The rows; None where nothing is said.
        total: How many rows there are.
        place: File and array, for messages.

    Raises:
        DataError: There is none, or one is out of range or named twice.
    """
    if rows is None:
        return
    if not rows:
        raise DataError(f"{place} names no row; name one at least, or leave it out")
    seen: set[int] = set()
    for number, row in enumerate(rows):
        if not 0 <= row < total:
            raise DataError(f"{place} has the row {row} at {number}; rows are 0 … {total - 1}")
        if row in seen:
            raise DataError(f"{place} has the row {row} a second time at {number}; name it once")
        seen.add(row)


def check_alike(parts: Mapping[str, np.ndarray], place: str) -> None:
    """Refuse parts whose images are not made as those of the first part are.

    Args:
        parts: Finite images, by what they are called; no part is empty.
        place: The file, for messages.

    Raises:
        DataError: Types, shapes, or the range of pixels differ.
    """
    (first, train), *others = parts.items()
    low, high = float(train.min()), float(train.max())
    for name, part in others:
        if train.dtype != part.dtype or train.shape[1:] != part.shape[1:]:
            raise DataError(
                f"{place}: {first} is {train.dtype} of {train.shape[1:]}, {name} {part.dtype} of"
                f" {part.shape[1:]}: make them alike"
            )
        if train.dtype.kind != "f" and train.dtype != np.uint8:
            continue  # no pixels, but numbers of words
        own_low, own_high = float(part.min()), float(part.max())
        most, other = max(abs(low), abs(high)), max(abs(own_low), abs(own_high))
        if max(most, other) > 16 * min(most, other):
            raise DataError(
                f"{place}: the largest pixel of {first} is {most:.4g} and of {name} {other:.4g}:"
                " scale both alike, such as to 0 … 1"
            )
        # Pixels around 0 beside pixels from 0 on: one of the two was normalised.
        if (low < -0.25 * most and own_low >= 0) or (own_low < -0.25 * other and low >= 0):
            raise DataError(
                f"{place}: the pixels of {first} are from {low:.4g} to {high:.4g} and of {name}"
                f" from {own_low:.4g} to {own_high:.4g}: normalise both alike"
            )


def _as_array(tensor: Tensor) -> tuple[str, np.ndarray]:
    """The name of a tensor's type, and an array of its bytes."""
    if tensor.dtype.is_floating_point and tensor.dtype not in _NUMPY_FLOATS:
        return str(tensor.dtype), tensor.reshape(-1).view(torch.uint8).numpy()
    array = tensor.numpy()
    return array.dtype.str, array


def _check_scale(images: Tensor, in_bytes: bool, mean: Numbers, std: Numbers) -> None:
    channels = images.shape[1]
    if not len(mean) == len(std) == channels:
        raise DataError(
            f"mean and std must have one number for each of {channels} channels, got {mean} and"
            f" {std}"
        )
    most = float(images.max())
    if in_bytes and max(mean) > 1:
        raise DataError(
            f"mean {mean} is for pixels in 0–255, and bytes are scaled to 0–1 first: divide mean"
            " and std by 255"
        )
    if most > 2 and max(mean) <= 1 and max(std) <= 1:
        raise DataError(
            f"mean {mean} and std {std} are for pixels in 0–1, and these go up to {most:.4g}:"
            " divide the pixels by 255, or give mean and std of such pixels"
        )


def _numbers(name: str, given: object, above: float) -> Numbers:
    numbers = list(given) if isinstance(given, list | tuple) else []
    valid = all(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one)
        for one in numbers
    )
    if not numbers or not valid or min(numbers) <= above:
        positive = " greater than 0" if above == 0 else ""
        raise DataError(
            f"{name} must be a list of finite numbers{positive}, one for each channel, got"
            f" {given!r}"
        )
    return tuple(float(one) for one in numbers)
