"""Image data that a function of one's own returned: what is refused, and what is put right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from editgym.checks import is_whole, shown
from editgym.data.errors import DataError
from editgym.data.image_data import (
    ImageData,
    Labelled,
    check_alike,
    check_class_names,
    check_finite,
    check_rows,
)

_NEEDED, _OPTIONAL = ("train", "test"), ("policy", "validation")


def checked_own(data: ImageData, where: str) -> ImageData:
    """The same data with names and rows as tuples.

    Args:
        data: What the function returned; pixels are as the network takes them.
        where: The function's name, for messages.

    Raises:
        DataError: A part is no `Labelled` of two tensors, is empty, or its inputs and labels are of
            unequal number; inputs are not finite, or not made alike in all parts; labels are not
            int64 from 0 to C − 1; names or rows do not go with them. The message names part and
            row.
    """
    place = f"data: {where}"
    _check_parts(data, place)
    n_classes = data.n_classes
    if isinstance(n_classes, np.integer):
        n_classes = int(n_classes)
    if not is_whole(n_classes) or n_classes < 1:
        raise DataError(
            f"{place}: n_classes must be the number of classes, a whole number, got"
            f" {shown(data.n_classes)}"
        )
    for name, part in data.parts.items():
        _check_part(part, n_classes, f"{place}: the part {name!r}")
    arrays = {name: _array(part.inputs) for name, part in data.parts.items()}
    check_alike(arrays, place)
    total = len(data.train)
    classes, files = (
        _texts(data.classes, f"{place}: classes"),
        _texts(data.files, f"{place}: files"),
    )
    if classes:
        check_class_names(classes, n_classes, place)
    if files and len(files) != total:
        raise DataError(
            f"{place}: files names {len(files)} files, and the part 'train' has {total} rows: give"
            " the file of every row, or none"
        )
    if repeated := [name for name, count in Counter(files).items() if count > 1]:
        raise DataError(f"{place}: files has {repeated[0]!r} twice; make names differ")
    members = _rows(data.members, f"{place}: members")
    forget = _rows(data.forget, f"{place}: forget")
    check_rows(members, total, f"{place}: members")
    check_rows(forget, total, f"{place}: forget")
    return replace(
        data,
        n_classes=n_classes,
        classes=classes,
        files=files,
        members=members,
        forget=forget,
        source=where,
    )


def _check_parts(data: ImageData, place: str) -> None:
    """Refuse parts that are missing, or no labelled samples."""
    for name in (*_NEEDED, *_OPTIONAL):
        part = getattr(data, name)
        if part is None and name in _OPTIONAL:
            continue
        if not isinstance(part, Labelled):
            raise DataError(
                f"{place}: the part {name!r} is a {type(part).__name__}; make it a Labelled"
                " (editgym.data.images) of inputs and labels"
            )
        for what in ("inputs", "labels"):
            given = getattr(part, what)
            if not isinstance(given, Tensor):
                raise DataError(
                    f"{place}: the part {name!r} has {what} of type {type(given).__name__}; make"
                    f" them a tensor, as by torch.as_tensor({what})"
                )
            if given.layout != torch.strided or given.is_meta or given.requires_grad:
                raise DataError(
                    f"{place}: the part {name!r} has {what} that are sparse, without numbers, or"
                    " learned; make them a plain tensor"
                )


def _check_part(part: Labelled, n_classes: int, place: str) -> None:
    """Refuse inputs and labels that do not go together."""
    inputs, labels = part.inputs, part.labels
    if inputs.ndim < 2 or 0 in inputs.shape or labels.shape != inputs.shape[:1]:
        raise DataError(
            f"{place} has inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)}: give n"
            " inputs (n, …), with numbers in each, and n labels (n,), at least one"
        )
    if labels.dtype != torch.int64:
        raise DataError(f"{place} has labels of {labels.dtype}; make them torch.int64")
    wrong = (labels < 0) | (labels >= n_classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise DataError(
            f"{place} has the label {int(labels[row])} at row {row}; with n_classes {n_classes}"
            f" labels are 0 … {n_classes - 1}"
        )
    check_finite(inputs, place)


def _array(inputs: Tensor) -> np.ndarray:
    """Inputs as numpy has them, which lacks bfloat16."""
    whole = inputs.float() if inputs.dtype == torch.bfloat16 else inputs
    array: np.ndarray = whole.cpu().numpy()
    return array


def _texts(given: Any, place: str) -> tuple[str, ...]:
    """Names as a tuple."""
    listed = list(given) if isinstance(given, list | tuple | np.ndarray) else None
    if listed is None or not all(isinstance(one, str) for one in listed):
        raise DataError(f"{place} must be names, a tuple of texts, got {shown(given)}")
    return tuple(str(one) for one in listed)


def _rows(given: Any, place: str) -> tuple[int, ...] | None:
    """Rows as a tuple."""
    if given is None:
        return None
    if isinstance(given, np.ndarray | Tensor):
        given = given.tolist()
    if not isinstance(given, list | tuple) or not all(is_whole(one) for one in given):
        raise DataError(f"{place} must be rows of train, a tuple of whole numbers, got {given!r}")
    return tuple(given)
