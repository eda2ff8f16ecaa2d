"""Remake the classifiers that ship with the package: `python -m editgym.tasks.train_bundled
[--seeds 10]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import nn

from editgym.models.training import save_weights
from editgym.tasks.catalogue import make_task
from editgym.tasks.debiasing import texts
from editgym.tasks.unlearning import backdoor, images, networks


class _Bundled(NamedTuple):
    """How the networks of one task are trained, and where they lie, by model seed."""

    train: Callable[[int], nn.Module]
    file: Callable[[int], Path]


BUNDLED = {
    "unlearning/digits": _Bundled(images.train_digits, networks.bundled_file),
    "unlearning/backdoor": _Bundled(backdoor.train_poisoned, backdoor.bundled_file),
    "debiasing/templates": _Bundled(texts.train_templates, texts.bundled_file),
}


def main() -> None:
    """Train the networks of seeds 0 … N−1 and write them into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=10, help="how many networks (default: %(default)s)"
    )
    parser.add_argument(
        "--tasks", nargs="*", default=list(BUNDLED), choices=BUNDLED, help="default: all"
    )
    arguments = parser.parse_args()
    for name in arguments.tasks:
        bundled = BUNDLED[name]
        for seed in range(arguments.seeds):
            save_weights(bundled.train(seed), bundled.file(seed), {"task": name, "seed": seed})
            task = make_task(name, model_seed=seed)
            measured = task.evaluate(task.networks[0].journal)
            report = ", ".join(
                f"{key} {value:.4f}"
                for key, value in measured.items()
                if value is not None and key.endswith(("accuracy_before", "rate_before"))
            )
            print(f"{bundled.file(seed).name}: {report}")


if __name__ == "__main__":
    main()
