"""The networks of `unlearning/custom`: classes or functions of one's own with their state dicts, or
Hugging Face folders.
"""

from __future__ import annotations

import hashlib
import inspect
import operator
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from editgym.data.errors import DataError
from editgym.data.images import ImageData
from editgym.imports import imported, is_import_path
from editgym.models.image_classifiers import (
    CONFIG,
    is_folder,
    normalisation,
    output_names,
    untrained_classifier,
)
from editgym.models.training import load_weights
from editgym.tasks.unlearning.task import UnlearningTask


def builder(model: str, arguments: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """What makes an untrained network.

    Args:
        model: `package.module:Class`, or a Hugging Face folder with the config of an image
            classifier.
        arguments: Arguments of the class.

    Raises:
        ValueError: The path leads nowhere; or, when it is called, what it leads to cannot be made
            with the arguments, or is no network.
    """
    if is_folder(model):
        if arguments:
            raise ValueError(
                f"model_kwargs: {dict(arguments)} says how a class makes its network, and the"
                f" {CONFIG} of the folder {model} says it already; leave it out"
            )
        return partial(untrained_classifier, model)
    if isinstance(model, str) and not is_import_path(model):
        raise ValueError(
            f"model: {model!r} is no import path and no folder that is here: write"
            " package.module:Class, or the folder that save_pretrained of transformers wrote"
        )
    make = imported(model, "model", "package.module:Class")

    return partial(_built, model, make, arguments)


def _built(model: str, make: Callable[..., object], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        built = make(**arguments)
    except Exception as error:  # a stranger's class may raise anything
        raise ValueError(
            f"model: {model!r} cannot be made with model_kwargs {dict(arguments)}:"
            f" {type(error).__name__}: {error}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"model: {model!r} made a {type(built).__name__}, expected an nn.Module")
    return built


def files(weights: object, model: str) -> list[str]:
    """The files, or Hugging Face folders, that hold networks; by default the folder of the model.

    Raises:
        ValueError: They are no list of names, or the model is no folder and there are none.
    """
    if weights is None and is_folder(model):
        return [model]
    listed = weights if isinstance(weights, list | tuple) else [weights]
    if not listed or not all(isinstance(file, str) and file for file in listed):
        own = "; only a folder of transformers, given as model=, has its own" * (weights is None)
        raise ValueError(f"weights must be a file, or a list of files, got {weights!r}{own}")
    return list(listed)


def network(build: Callable[[], nn.Module], file: str) -> nn.Module:
    """A network with the weights of a file or folder, in evaluation mode.

    Raises:
        ValueError: There is none, or it does not fit the network.
    """
    built, path = build(), Path(file).expanduser()
    if not path.exists():
        raise DataError(f"weights: no file at {path}")
    return load_weights(built, path)


def check_differ(named: Sequence[str], task: UnlearningTask) -> None:
    """Refuse one network under two names: which of them an edit belongs to could not be told."""
    known: dict[str, str] = {}
    for file, one in zip(named, task.networks, strict=True):
        if one.base_hash in known:
            raise ValueError(
                f"weights: {known[one.base_hash]} and {file} hold the same network; name it once"
            )
        known[one.base_hash] = file


def check_folder(
    model: str, networks: Sequence[nn.Module], data: ImageData, *, normalised: bool
) -> None:
    """Refuse classes in another order than a network's outputs, and warn of pixels that a folder's
    network was not trained on.

    Args:
        model: The argument.
        networks: The networks.
        data: The images.
        normalised: Whether `mean` and `std` are given, or the pixels are taken as they are.

    Raises:
        DataError: The classes have the names of the network's outputs, in another order.
    """
    names = output_names(networks[0])
    if data.classes and set(names) == set(data.classes) and names != data.classes:
        raise DataError(
            f"data: the classes are {', '.join(data.classes)}, in this order, and the outputs of"
            f" the network ({CONFIG}, id2label) {', '.join(names)}: give images as an npz whose"
            " labels and classes are in the order of the outputs"
        )
    wanted = normalisation(model) if is_folder(model) else None
    if wanted is not None and not normalised:
        warnings.warn(
            f"model: {model} was trained on pixels with mean={wanted[0]} and std={wanted[1]}"
            " taken off (preprocessor_config.json), and gets them as the data have them; give"
            " mean= and std=, unless the data are normalised already",
            stacklevel=4,
        )


def code(path: str) -> str | None:
    """SHA-256 of the files that say what an import path leads to: of the module that is named, and
    of the one where it is defined, which may be another; of a Hugging Face folder its config. None
    where there is neither.
    """
    module, _, name = path.partition(":")
    named = sys.modules.get(module)
    defined = None
    with suppress(AttributeError, TypeError):  # what is built in, or made at run time, has no file
        defined = inspect.getsourcefile(inspect.unwrap(operator.attrgetter(name)(named)))
    config = str(Path(path).expanduser() / CONFIG) if is_folder(path) else None
    found = dict.fromkeys([getattr(named, "__file__", None), defined, config])
    content = [Path(file).read_bytes() for file in found if file and Path(file).is_file()]
    return hashlib.sha256(b"".join(content)).hexdigest() if content else None
