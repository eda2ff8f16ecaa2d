"""Remake the networks that ship with the package: `python -m editgym.tasks.train_bundled [--seeds 10]`."""

from __future__ import annotations

import argparse

import torch

from editgym.models.training import save_weights
from editgym.tasks.images import bundled_file, digits, train_digits


def main() -> None:
    """Train the digits networks of seeds 0 … N−1 and write them into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many networks (default: %(default)s)")
    for seed in range(parser.parse_args().seeds):
        save_weights(train_digits(seed), bundled_file(seed), {"task": "unlearning/digits", "seed": seed})
        task = digits(model_seed=seed)
        test = task.splits.test
        correct = task.networks[0].logits(test.inputs).argmax(-1) == test.labels
        print(f"{bundled_file(seed).name}: test accuracy {float(correct.to(torch.float64).mean()):.4f}")


if __name__ == "__main__":
    main()
