"""A task whose network is a Vision Transformer of `transformers`, given as it is: for timings."""

from __future__ import annotations

from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification

from editgym.data.images import ImageData, Labelled
from editgym.tasks.unlearning.networks import Request, task_of
from editgym.tasks.unlearning.splits import Rows
from editgym.tasks.unlearning.task import UnlearningTask

_IMAGES, _CLASSES, _SIZE = 2_800, 10, 32
_SHARES = (0.05, 0.9)  # more images to reward than a batch has, so that batches are drawn of them
_SHAPE: dict[str, Any] = {
    "image_size": _SIZE,
    "patch_size": 8,
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "num_labels": _CLASSES,
}


def head(*, device: str = "cpu") -> UnlearningTask:
    """A ViT of 2.7 million random weights on random images of ten classes, whose last layer is
    edited: what a step costs does not depend on what the numbers mean.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViTForImageClassification(ViTConfig(**_SHAPE)).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(_IMAGES, 3, _SIZE, _SIZE, generator=generator)
    images = Labelled(pixels, torch.arange(_IMAGES) % _CLASSES)
    data = ImageData(images[torch.arange(200, _IMAGES)], images[torch.arange(200)], _CLASSES)
    request = Request(
        forget_class=0, goals=None, forget_samples=None, sites=["classifier"], device=device
    )
    return task_of("costs/vit", data, [model], request, Rows.drawn(data, 0, _SHARES), 0)
