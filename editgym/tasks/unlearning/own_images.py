"""`unlearning/custom`: networks and images of one's own, and a function that trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from editgym.checks import is_whole, one_of, require, whole
from editgym.data import images
from editgym.data.own_loaders import checked_own
from editgym.imports import is_import_path, loaded_as
from editgym.tasks.unlearning.goals import Forget, Sample, checked_rows
from editgym.tasks.unlearning.networks import Request, drawn_rows, task_of
from editgym.tasks.unlearning.own_networks import (
    builder,
    check_differ,
    check_folder,
    files,
    network,
)
from editgym.tasks.unlearning.own_oracle import own_oracle
from editgym.tasks.unlearning.task import UnlearningTask

TRAIN = "train"


def custom(
    *,
    model: str,
    weights: str | Sequence[str] | None = None,
    data: str,
    model_kwargs: Mapping[str, object] | None = None,
    sites: Sequence[str] | None = None,
    image_size: int = 32,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    forget_class: Forget | None = None,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    forget_indices: Sequence[Sample] | None = None,
    members: str | Sequence[Sample] | None = None,
    stratified: bool = False,
    retrain: str | None = None,
    model_seed: int = 0,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/custom`: your own network and images.

    Args:
        model: Import path `package.module:Class` (or a function) that makes the `nn.Module`: images
            -> logits; or the folder of an image classifier of `transformers`.
        weights: File with its state dict, safetensors or what `torch.save` writes, or the folder
            that `save_pretrained` wrote; or several of those, of which an episode draws one. By
            default what is in the folder that `model` names.
        data: An npz with `x_train y_train x_test y_test` (`editgym.data.npz_images.npz` has the
            optional arrays), a folder with `train/CLASS/*` and `test/CLASS/*`, or the import path
            of a function that returns an `ImageData`, with pixels as the network takes them.
        model_kwargs: Arguments of `model`.
        sites: Names or globs; by default `discover_sites` chooses.
        image_size: Images of a folder are resized to this.
        channels: 1 or 3: how the images of a folder are read; by default in colour unless all are
            grey.
        mean: Per-channel mean that pixels in 0–1 are normalised with.
        std: Per-channel standard deviation, likewise.
        forget_class: Class, or set of classes, to forget, by number or name; by default what the
            npz's array `forget` says, or class 0.
        goals: Several of those; an episode draws one.
        forget_samples: Forget that many random samples instead.
        forget_indices: Forget these samples instead: rows of the training data, or files of a
            folder's `train`, such as `dog/3.png`.
        members: What the network was trained on: `"train"`, all training images, or a list like
            `forget_indices`, which is then the model split; by default what the npz's array
            `members` says. Unless it is known, reports say nothing of membership.
        stratified: Whether every class is divided by itself, so that each split has a sample of
            every class.
        retrain: Import path `package.module:function` of a function that trains a network anew
            (`editgym.tasks.unlearning.own_oracle`), for the oracle.
        model_seed: Seed of the splits and of `retrain`.
        device: Where networks and data live.

    Raises:
        ValueError: `model` cannot be imported, `weights` do not fit it, `data` are malformed or
            nothing that the network takes, or the arguments are at odds.
    """
    _check_kinds(data, model_kwargs, stratified, model_seed)
    whole(1)("image_size", image_size)
    loaded = _loaded(data, image_size, channels, mean, std)
    if loaded.n_classes < 2:
        raise images.DataError(
            f"data: {data} has one class, and what is forgotten is told from the others: give"
            " images of two classes or more"
        )
    member_rows = _member_rows(members, loaded)
    request = Request(forget_class, goals, forget_samples, sites, device, forget_indices)
    if members == TRAIN and loaded.policy is None and request.forgets_samples(loaded):
        raise ValueError(
            'members: "train" says that the network has seen all training images, and forgotten'
            " samples are compared with images that it has not: give x_policy y_policy in the data,"
            " or list its members"
        )
    rows = drawn_rows(loaded, request, model_seed, stratified=stratified, members=member_rows)
    build = builder(model, dict(model_kwargs or {}))
    named = files(weights, model)
    oracle = None
    if retrain is not None:
        oracle = own_oracle(retrain, model, dict(model_kwargs or {}), build, model_seed)
    networks = [network(build, file) for file in named]
    check_folder(model, networks, loaded, normalised=mean is not None or is_import_path(data))
    task = task_of(
        "unlearning/custom",
        loaded,
        networks,
        request,
        rows,
        model_seed,
        oracle,
        native=tuple(range(len(named))),
        members_known=members is not None or loaded.members is not None,
    )
    check_differ(named, task)
    return task


def _check_kinds(data: object, model_kwargs: object, stratified: object, seed: object) -> None:
    """Refuse arguments of another kind than they have to be."""
    require(
        isinstance(data, str) and bool(data),
        "data",
        data,
        "an npz file, a folder, or package.module:function",
    )
    require(
        model_kwargs is None or isinstance(model_kwargs, Mapping),
        "model_kwargs",
        model_kwargs,
        "the arguments of model by name, such as {'classes': 3}",
    )
    one_of(True, False)("stratified", stratified)
    within_int64 = is_whole(seed) and -(2**63) <= cast(int, seed) < 2**63
    require(within_int64, "model_seed", seed, "a whole number of at most 63 bits")


def _loaded(
    data: str,
    image_size: int,
    channels: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> images.ImageData:
    """The images, from where `data` says.

    Raises:
        ValueError: They are malformed, or an argument is given that says nothing of such data.
    """
    if not is_import_path(data) and Path(data).expanduser().is_dir():
        return images.image_folder(data, image_size, mean, std, channels)
    if channels is not None:
        raise ValueError(
            f"channels: {channels} says how the images of a folder are read, and {data} is none;"
            " leave it out"
        )
    if not is_import_path(data):
        return images.npz(data, mean, std)
    if mean is not None or std is not None:
        raise ValueError(
            f"mean, std: what {data} returns is taken as it is, pixels as the network takes them;"
            " leave them out"
        )
    return checked_own(loaded_as(images.ImageData, data, "data"), data)


def _member_rows(
    members: str | Sequence[Sample] | None, data: images.ImageData
) -> tuple[int, ...] | None:
    """The rows that the network was trained on; None where it is all of them, or not known."""
    if members == TRAIN:
        return None
    if members is None and data.members is None:
        return None
    argument, given = (
        ("members", members) if members is not None else ("data: members", data.members)
    )
    return checked_rows(argument, given, data, f'"{TRAIN}", or ')
