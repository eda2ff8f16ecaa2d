"""Images of one's own in an npz file: which arrays it holds, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from editgym.data.errors import DataError
from editgym.data.image_data import (
    ImageData,
    check_alike,
    check_class_names,
    check_finite,
    check_rows,
    checked_normalisation,
    labelled,
)

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
OPTIONAL_PARTS = ("policy", "validation")
_OPTIONAL_KEYS = (
    *(f"{xy}_{part}" for part in OPTIONAL_PARTS for xy in "xy"),
    *("classes", "forget", "members"),
)


def npz(
    path: str | os.PathLike[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageData:
    """An npz with `x_train y_train x_test y_test`; images (n, h, w) or (n, h, w, c), uint8 or
    float, labels 0 … C−1.

    uint8 pixels are scaled to 0–1, then each channel is normalised by `mean` and `std` where given.
    Optional arrays: `x_policy y_policy` and `x_validation y_validation`, parts that are then not
    drawn from the training data; `classes`, the classes' names (C,); `forget` and `members`, the
    rows of `x_train` to forget and those that the network was trained on, as whole numbers (k,) or
    as True and False (n,).

    Raises:
        DataError: The file is missing or damaged, lacks a key, a key has the wrong shape, pixels
            are not finite or not made alike in all parts, or a label is out of range; the message
            names array and row.
    """
    path = Path(path).expanduser()
    shift, scale = checked_normalisation(mean, std)
    arrays = _arrays(path)
    place = f"data: {path}"
    names = ["train", "test", *(part for part in OPTIONAL_PARTS if f"x_{part}" in arrays)]
    for name in names:
        _check_part(place, name, arrays[f"x_{name}"], arrays[f"y_{name}"])
    check_alike({f"x_{name}": arrays[f"x_{name}"] for name in names}, place)
    n_classes = _checked_labels(place, {f"y_{name}": arrays[f"y_{name}"] for name in names})
    classes = _class_names(place, arrays.get("classes"))
    if classes is not None:
        n_classes = max(n_classes, len(classes))
        check_class_names(classes, n_classes, place)
    total = len(arrays["x_train"])
    members = _rows(place, "members", arrays)
    forget = _rows(place, "forget", arrays)
    check_rows(members, total, f"{place}: members")
    check_rows(forget, total, f"{place}: forget")
    parts = {
        name: labelled(arrays[f"x_{name}"], arrays[f"y_{name}"], shift, scale) for name in names
    }
    return ImageData(
        parts["train"],
        parts["test"],
        n_classes,
        parts.get("policy"),
        parts.get("validation"),
        classes or (),
        forget=forget,
        members=members,
        source=str(path),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file that are known here, all that are needed among them."""
    if not path.is_file():
        raise DataError(f"data: no file at {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            known = (*NPZ_KEYS, *_OPTIONAL_KEYS)
            arrays = {key: _plain(file[key]) for key in file.files if key in known}
    except (
        Exception
    ) as error:  # zipfile, zlib, the header's tokenizer: numpy has no one error for a damaged file
        raise DataError(f"data: {path} is not a readable npz file: {error}") from error
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise DataError(f"data: {path} lacks {', '.join(missing)}; it needs {', '.join(NPZ_KEYS)}")
    for part in OPTIONAL_PARTS:
        pair = [f"x_{part}", f"y_{part}"]
        if sum(key in arrays for key in pair) == 1:
            (gone,) = (key for key in pair if key not in arrays)
            raise DataError(f"data: {path} lacks {gone}: {' and '.join(pair)} go together")
    return arrays


def _plain(array: np.ndarray) -> np.ndarray:
    """An array as torch can take it: in this machine's order of bytes, with no long doubles."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_part(place: str, name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Refuse arrays that are not images and their classes."""
    whole = np.issubdtype(y.dtype, np.integer)
    if x.ndim not in (3, 4) or y.shape != x.shape[:1] or 0 in x.shape or not whole:
        raise DataError(
            f"{place}: x_{name} must be (n, h, w) or (n, h, w, c), none of them 0, and"
            f" y_{name} n whole numbers, got {x.shape} {x.dtype} and {y.shape}"
            f" {y.dtype}{_advice(name, x, y)}"
        )
    if y.min() < 0:
        raise DataError(
            f"{place}: y_{name} has the label {y.min()} at row {y.argmin()}; labels are 0 … C - 1"
        )
    if x.ndim == 4 and _is_channels_first(x.shape):
        raise DataError(
            f"{place}: x_{name} has the shape {x.shape}, channels first; give (n, h, w, c):"
            f" x_{name}.transpose(0, 2, 3, 1)"
        )
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        span = f" from {x.min()} to {x.max()}" if x.dtype.kind in "biuc" else ""
        raise DataError(
            f"{place}: x_{name} must be uint8 or floating point, got {x.dtype}{span}: give"
            f" x_{name}.astype(np.uint8), or pixels in 0–1 as float32"
        )
    if x.dtype != np.uint8:
        check_finite(torch.from_numpy(x), f"{place}: x_{name}")


def _is_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether (n, …) is rather (n, c, h, w) than (n, h, w, c)."""
    _, first, middle, last = shape
    if last in (1, 3, 4):
        return False
    return first in (1, 3) or (middle == last and first < middle)


def _advice(name: str, x: np.ndarray, y: np.ndarray) -> str:
    """What makes labels of a usual other form right."""
    if 0 in x.shape or not x.ndim:
        return ""
    if y.shape == (len(x), 1):
        return f": give y_{name}.ravel()"
    if y.ndim == 2 and len(y) == len(x) and len(y) and (y.sum(1) == 1).all() and y.max() == 1:
        return f", one-hot: give y_{name}.argmax(1)"
    if y.shape == (len(x),) and len(x) and y.dtype.kind == "f" and (y == np.rint(y)).all():
        return f": give y_{name}.astype(int)"
    return ""


def _checked_labels(place: str, labels: dict[str, np.ndarray]) -> int:
    """The number of classes, by the training data's labels."""
    train = labels["y_train"]
    found = np.unique(train)
    if found[0] == 1 and found[-1] == len(found):
        raise DataError(
            f"{place}: y_train has the labels 1 … {found[-1]} and no 0; labels are 0 … C - 1:"
            f" subtract 1 from {' and '.join(labels)}"
        )
    last = found[-1]
    for name, own in labels.items():
        if own.max() > last:
            raise DataError(
                f"{place}: {name} has the label {own.max()}, and the largest of y_train is {last}:"
                f" a class that is tested must be in the training data (row {own.argmax()})"
            )
    return int(last) + 1


def _class_names(place: str, given: np.ndarray | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    if given.ndim != 1 or given.dtype.kind not in "US":
        raise DataError(
            f"{place}: classes must be the classes' names, texts (C,), got {given.shape}"
            f" {given.dtype}"
        )
    names = []
    for number, name in enumerate(given.tolist()):
        try:
            names.append(name.decode("utf-8") if isinstance(name, bytes) else name)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{place}: the name {name!r} of class {number} in classes is no UTF-8: {error}"
            ) from error
    return tuple(names)


def _rows(place: str, name: str, arrays: dict[str, np.ndarray]) -> tuple[int, ...] | None:
    """Rows of `x_train` as whole numbers, out of those or a mask; None where there is no such
    array.
    """
    given = arrays.get(name)
    if given is None:
        return None
    count = len(arrays["x_train"])
    if given.dtype == np.bool_ and given.shape == (count,):
        return tuple(np.flatnonzero(given).tolist())
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise DataError(
            f"{place}: {name} must be rows of x_train, whole numbers (k,) or True and False"
            f" ({count},), got {given.shape} {given.dtype}"
        )
    return tuple(given.tolist())
