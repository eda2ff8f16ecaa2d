"""Image data of one's own: a function that returns an `ImageData`, and the network for it."""

from __future__ import annotations

import torch
from torch import nn

from editgym.data.images import ImageData, Labelled


def bars() -> ImageData:
    """Four classes of 8×8 images: each has a bright row of its own, in noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 4
    images = 0.3 * torch.rand(240, 1, 8, 8, generator=generator)
    images[torch.arange(240), 0, 2 * labels] += 0.7
    return ImageData(Labelled(images[:160], labels[:160]), Labelled(images[160:], labels[160:]), 4)


def bars_network() -> nn.Module:
    """A network that reads bars."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
