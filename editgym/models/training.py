"""Train a classifier the same way on every run, once per configuration: a cache behind a file
lock.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from tqdm import tqdm

from editgym.data.images import Labelled
from editgym.models.state_files import state_dict, under_names
from editgym.paths import cache_folder
from editgym.weights.tensor_file import write_tensors


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: Adam with a cosine schedule on the cross-entropy.

    Attributes:
        epochs: Passes over the data, at most.
        learning_rate: Adam's, at the start.
        batch_size: Samples a step.
        stop_at: Stop as soon as the accuracy on `validation` reaches this (looked at every
            `check_every` steps, the learning rate then stays constant); None trains all epochs.
        check_every: Steps between two looks at the validation accuracy.
    """

    epochs: int
    learning_rate: float = 1e-3
    batch_size: int = 64
    stop_at: float | None = None
    check_every: int = 4


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: sums over several threads differ in the last bit from machine to
    machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the global generators of Python, NumPy and torch, on every device in use, as they
    were: what is seeded or drawn inside is nobody else's.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def train_classifier(
    build: Callable[[], nn.Module],
    data: Labelled,
    validation: Labelled,
    recipe: Recipe,
    seed: int,
    description: str = "train",
) -> nn.Module:
    """Build and train a classifier on CPU; equal arguments give equal weights.

    Args:
        build: Makes the untrained network.
        data: What it is trained on.
        validation: What `recipe.stop_at` is judged on.
        recipe: Optimiser, length and stopping.
        seed: Seed of the initialisation and of the order of the samples. The global generator is
            left as it was.
        description: Label of the progress bar.
    """
    with torch.random.fork_rng(devices=[]), one_thread(), torch.enable_grad():
        torch.manual_seed(seed)
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
        per_epoch = -(-len(data) // recipe.batch_size)
        total = recipe.epochs * per_epoch
        with tqdm(total=total, desc=description, leave=False, mininterval=0.5) as bar:
            for step in range(total):
                if step % per_epoch == 0:
                    order = torch.randperm(len(data))
                start = step % per_epoch * recipe.batch_size
                batch = data[order[start : start + recipe.batch_size]]
                if recipe.stop_at is None:
                    cosine = 0.5 * (1 + math.cos(math.pi * step / total))
                    optimizer.param_groups[0]["lr"] = recipe.learning_rate * cosine
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(batch.inputs), batch.labels).backward()
                optimizer.step()
                bar.update()
                if (
                    recipe.stop_at
                    and step % recipe.check_every == 0
                    and _accuracy(model, validation) >= recipe.stop_at
                ):
                    break
        return model.eval().requires_grad_(False)


def cached_classifier(
    key: Mapping[str, object], build: Callable[[], nn.Module], train: Callable[[], nn.Module]
) -> nn.Module:
    """The network that `train` makes, trained once per `key` and then read from
    `EDITGYM_CACHE/networks`.

    Several processes may ask at once: one trains, the others wait for its file.

    Raises:
        ValueError: The cache cannot be written, or its file is damaged.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / "networks" / f"{digest}.safetensors"
    if not path.exists():
        with ExitStack() as held:
            with _keeping(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(f"{path}.lock"))
            if not path.exists():
                network = train()
                with _keeping(path):
                    save_weights(network, path, key)
    return load_weights(build(), path)


@contextmanager
def _keeping(path: Path) -> Iterator[None]:
    """What cannot be written is an error of the cache; what training raises is not."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"EDITGYM_CACHE: cannot keep the trained network in {path.parent}: {error}"
        ) from error


def save_weights(model: nn.Module, path: Path, key: Mapping[str, object]) -> None:
    """Write a state dict, completely or not at all, with `key` in its metadata.

    Raises:
        OSError: The folder cannot be written.
    """
    # Tied weights share their memory, which the format has no word for.
    own = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    write_tensors(path, own, {"key": json.dumps(key, sort_keys=True)})


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Load a state dict (`editgym.models.state_files`) into `model` and put it in evaluation mode.

    Names that differ from the model's by what stands before all of them are understood, and, of a
    model of `transformers`, those that older versions of it gave.

    Raises:
        ValueError: The file does not hold the weights of this network, or some are not finite.
    """
    try:
        model.load_state_dict(_under_own_names(model, state_dict(path)))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"weights: {path} does not fit {type(model).__name__}: {error}") from error
    return model.eval().requires_grad_(False)


def _under_own_names(model: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict under the names that the model gives its tensors, where that can be told."""
    found = under_names(state, model.state_dict())
    if found is not None:
        return found
    # Imported here: it loads `transformers`, which most networks do without.
    from editgym.models import image_classifiers

    return image_classifiers.under_own_names(model, state)


def recipe_key(recipe: Recipe) -> dict[str, object]:
    """The recipe as plain JSON values, for a cache key."""
    return asdict(recipe)


@torch.no_grad()
def _accuracy(model: nn.Module, data: Labelled) -> float:
    return float((model(data.inputs).argmax(-1) == data.labels).float().mean())
