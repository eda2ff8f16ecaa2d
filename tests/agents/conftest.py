"""A small task of one's own: a network and images from files."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from editgym.models.classifiers import SmallConvNet


@pytest.fixture
def custom_task(tmp_path):
    random = np.random.default_rng(0)
    arrays = {}
    for split, number in (("train", 120), ("test", 40)):
        arrays[f"x_{split}"] = random.integers(0, 256, (number, 8, 8), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(number) % 4
    np.savez(tmp_path / "images.npz", **arrays)
    torch.manual_seed(0)
    save_file(SmallConvNet(8, 4).state_dict(), tmp_path / "weights.safetensors")
    return {"task": "unlearning/custom", "model": "editgym.models.classifiers:SmallConvNet",
            "model_kwargs": {"image_size": 8, "n_classes": 4}, "weights": str(tmp_path / "weights.safetensors"),
            "data": str(tmp_path / "images.npz"), "sites": ["fc2"]}
