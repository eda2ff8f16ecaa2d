"""The tensors that environments make and keep, whatever mode of torch their caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Inside, tensors are made that gradients can go through later, also where the caller is in
    `torch.inference_mode()`; whether gradients are recorded stays as it was.

    Networks and references are kept from one call to the next, and a tensor of inference mode would
    be in the way of every gradient after it.
    """
    recorded = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(recorded):
        yield
