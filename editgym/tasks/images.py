"""The image tasks of the catalogue: which data, which network, how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from editgym.data import images
from editgym.imports import imported, is_import_path, loaded_as
from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.models.training import Recipe, load_weights, train_classifier
from editgym.paths import data_folder
from editgym.tasks.goals import Forget
from editgym.tasks.image_networks import DIGITS_RECIPE, Request, task_of, trained_task
from editgym.tasks.splits import Splits
from editgym.tasks.unlearning import UnlearningTask

MNIST_RECIPE = Recipe(epochs=12, learning_rate=3e-3)
UNDERTRAINED = Recipe(epochs=12, stop_at=0.925)
PAPER_SHARES = (0.70, 0.15)
# Of 1,347 digits the paper's 15% would leave some 20 images of a class to score its forgetting on.
DIGITS_SHARES = (0.55, 0.35)


def digits(
    *,
    forget_class: Forget = 7,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    sites: Sequence[str] = ("fc2",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    undertrained: bool = False,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/digits`: scikit-learn's 8×8 digits and the paper's network; weights of seeds 0–9
    ship.

    The training data are divided 55/35/10 into model, policy and validation split; with several
    `networks`, by the first one's seed, so that the others were trained on some of the reward data
    (never on test data).
    """
    recipe = UNDERTRAINED if undertrained else DIGITS_RECIPE
    return trained_task(
        "unlearning/digits",
        images.digits(),
        8,
        DIGITS_SHARES,
        recipe,
        Request(forget_class, goals, forget_samples, sites, device),
        networks,
        model_seed,
    )


def mnist(
    *,
    forget_class: Forget = 7,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    sites: Sequence[str] = ("fc2",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    undertrained: bool = False,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/mnist`: MNIST and the paper's network; `undertrained` stops at its 92.8%."""
    recipe = UNDERTRAINED if undertrained else MNIST_RECIPE
    return trained_task(
        "unlearning/mnist",
        images.mnist(),
        28,
        PAPER_SHARES,
        recipe,
        Request(forget_class, goals, forget_samples, sites, device),
        networks,
        model_seed,
    )


def cifar10(
    *,
    forget_class: Forget = 7,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    sites: Sequence[str] = ("layer3.*.conv*",),
    weights: str | None = None,
    data: str | None = None,
    model_seed: int = 0,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/cifar10`: CIFAR-10 and a ResNet-20 read from a file; `model_seed` draws the
    splits alone.

    Args:
        forget_class: Class, or set of classes, to forget.
        goals: Several of those; an episode draws one.
        forget_samples: Forget that many random samples instead.
        sites: Names or globs.
        weights: State dict of `ResNet20`, by default
            `EDITGYM_DATA/classifiers/resnet20_cifar10.safetensors`.
        data: An npz; by default CIFAR-10 as found in `EDITGYM_DATA/images`.
        model_seed: Seed of the splits: there is one network.
        device: Where networks and data live.
    """
    path = (
        Path(weights) if weights else data_folder() / "classifiers" / "resnet20_cifar10.safetensors"
    )
    if not path.is_file():
        raise images.DataError(
            f"weights: no ResNet-20 at {path}; give weights= the path of a safetensors state dict "
            "of editgym.models.classifiers.ResNet20"
        )
    loaded = images.npz(data, images.CIFAR_MEAN, images.CIFAR_STD) if data else images.cifar10()
    model = load_weights(ResNet20(loaded.n_classes), path)
    request = Request(forget_class, goals, forget_samples, sites, device)
    return task_of(
        "unlearning/cifar10", loaded, [model], request, Splits.of(loaded, model_seed), model_seed
    )


def custom(
    *,
    model: str,
    weights: str,
    data: str,
    model_kwargs: Mapping[str, object] | None = None,
    sites: Sequence[str] | None = None,
    image_size: int = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    forget_class: Forget = 0,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    model_seed: int = 0,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/custom`: your own network and images.

    Args:
        model: Import path `package.module:Class` (or a function) that makes the `nn.Module`: images
            -> logits.
        weights: safetensors file with its state dict.
        data: An npz with `x_train y_train x_test y_test`, a folder with `train/CLASS/*` and
            `test/CLASS/*`, or the import path of a function that returns an `ImageData`, with
            pixels as the network takes them.
        model_kwargs: Arguments of `model`.
        sites: Names or globs; by default `discover_sites` chooses.
        image_size: Images of a folder are resized to this.
        mean: Per-channel mean that pixels in 0–1 are normalised with.
        std: Per-channel standard deviation, likewise.
        forget_class: Class, or set of classes, to forget.
        goals: Several of those; an episode draws one.
        forget_samples: Forget that many random samples instead.
        model_seed: Seed of the splits.
        device: Where networks and data live.

    Raises:
        ValueError: `model` cannot be imported, `weights` do not fit it, or `data` is malformed.
    """
    shift, scale = (None if mean is None else tuple(mean)), (None if std is None else tuple(std))
    if is_import_path(data):
        loaded = loaded_as(images.ImageData, data, "data")
    elif Path(data).expanduser().is_dir():
        loaded = images.image_folder(data, image_size, shift, scale)
    else:
        loaded = images.npz(data, shift, scale)
    built = imported(model, "model", "package.module:Class")(**dict(model_kwargs or {}))
    if not isinstance(built, nn.Module):
        raise ValueError(f"model: {model!r} made a {type(built).__name__}, expected an nn.Module")
    if not Path(weights).is_file():
        raise images.DataError(f"weights: no file at {weights}")
    network = load_weights(built, Path(weights))
    request = Request(forget_class, goals, forget_samples, sites, device)
    return task_of(
        "unlearning/custom", loaded, [network], request, Splits.of(loaded, model_seed), model_seed
    )


def train_digits(model_seed: int) -> nn.Module:
    """Train the digits network that ships for `model_seed`; `editgym.tasks.train_bundled` writes
    its file.
    """
    splits = Splits.of(images.digits(), model_seed, DIGITS_SHARES)
    return train_classifier(
        lambda: SmallConvNet(8), splits.model, splits.validation, DIGITS_RECIPE, model_seed
    )
