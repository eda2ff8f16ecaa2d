"""The image tasks of the catalogue: which data, which network, how it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from editgym.checks import one_of
from editgym.data import images
from editgym.models.classifiers import ResNet20, SmallConvNet
from editgym.models.training import Recipe, load_weights, train_classifier
from editgym.paths import data_folder
from editgym.tasks.unlearning.goals import Forget, Sample
from editgym.tasks.unlearning.networks import (
    DIGITS_RECIPE,
    Request,
    drawn_rows,
    task_of,
    trained_task,
)
from editgym.tasks.unlearning.splits import PAPER_SHARES, Splits
from editgym.tasks.unlearning.task import UnlearningTask

SEVEN = 7  # the class that is forgotten unless something else is said
MNIST_RECIPE = Recipe(epochs=12, learning_rate=3e-3)
UNDERTRAINED = Recipe(epochs=12, stop_at=0.925)
# Of 1,347 digits the paper's 15% would leave some 20 images of a class to score its forgetting on.
DIGITS_SHARES = (0.55, 0.35)


def digits(
    *,
    forget_class: Forget | None = None,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    forget_indices: Sequence[Sample] | None = None,
    sites: Sequence[str] = ("fc2",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    undertrained: bool = False,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/digits`: scikit-learn's 8×8 digits and the paper's network; weights of seeds 0–9
    ship. Unless something else is said, the 7 is forgotten.

    The training data are divided 55/35/10 into model, policy and validation split; with several
    `networks`, by the first one's seed, so that the others were trained on some of the reward data
    (never on test data).
    """
    one_of(False, True)("undertrained", undertrained)
    recipe = UNDERTRAINED if undertrained else DIGITS_RECIPE
    return trained_task(
        "unlearning/digits",
        images.digits(),
        8,
        DIGITS_SHARES,
        recipe,
        Request(forget_class, goals, forget_samples, sites, device, forget_indices, SEVEN),
        networks,
        model_seed,
    )


def mnist(
    *,
    forget_class: Forget | None = None,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    forget_indices: Sequence[Sample] | None = None,
    sites: Sequence[str] = ("fc2",),
    networks: Sequence[int] | None = None,
    model_seed: int = 0,
    undertrained: bool = False,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/mnist`: MNIST and the paper's network; `undertrained` stops at its 92.8%."""
    one_of(False, True)("undertrained", undertrained)
    recipe = UNDERTRAINED if undertrained else MNIST_RECIPE
    return trained_task(
        "unlearning/mnist",
        images.mnist(),
        28,
        PAPER_SHARES,
        recipe,
        Request(forget_class, goals, forget_samples, sites, device, forget_indices, SEVEN),
        networks,
        model_seed,
    )


def cifar10(
    *,
    forget_class: Forget | None = None,
    goals: Sequence[Forget] | None = None,
    forget_samples: int | None = None,
    forget_indices: Sequence[Sample] | None = None,
    sites: Sequence[str] = ("layer3.*.conv*",),
    weights: str | None = None,
    data: str | None = None,
    model_seed: int = 0,
    device: str = "cpu",
) -> UnlearningTask:
    """`unlearning/cifar10`: CIFAR-10 and a ResNet-20 read from a file; `model_seed` draws the
    splits alone.

    Args:
        forget_class: Class, or set of classes, to forget, by number or name; by default 7, the
            horse, or what the npz's array `forget` says.
        goals: Several of those; an episode draws one.
        forget_samples: Forget that many random samples instead.
        forget_indices: Forget these rows of the training data instead.
        sites: Names or globs.
        weights: State dict of `ResNet20`, safetensors or what `torch.save` writes, by default
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
    loaded = images.cifar10()
    if data:
        loaded = images.named_cifar10(images.npz(data, images.CIFAR_MEAN, images.CIFAR_STD))
    model = load_weights(ResNet20(loaded.n_classes), path)
    request = Request(forget_class, goals, forget_samples, sites, device, forget_indices, SEVEN)
    rows = drawn_rows(loaded, request, model_seed, members=loaded.members)
    return task_of("unlearning/cifar10", loaded, [model], request, rows, model_seed)


def train_digits(model_seed: int) -> nn.Module:
    """Train the digits network that ships for `model_seed`; `editgym.tasks.train_bundled` writes
    its file.
    """
    splits = Splits.of(images.digits(), model_seed, DIGITS_SHARES)
    return train_classifier(
        lambda: SmallConvNet(8), splits.model, splits.validation, DIGITS_RECIPE, model_seed
    )
