"""The machine that timings were taken on."""

from __future__ import annotations

import platform
from typing import Any

import torch


def hardware(device: str) -> dict[str, Any]:
    """What the timings were taken on."""
    named = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    )
    return {
        "device": device,
        "name": named or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
