"""Memory of editors with a large matrix for every site: on disk between the steps that need it."""

from __future__ import annotations

import ctypes
import tempfile
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from editgym.paths import cache_folder


class MatrixOnDisk:
    """A matrix in a file without a name, which is gone with this object or with the process,
    however it ends.

    Args:
        matrix: What is written; it is not kept.
    """

    def __init__(self, matrix: Tensor) -> None:
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - for as long as the object
        self._shape, self._device = matrix.shape, matrix.device
        array = matrix.detach().cpu().contiguous().numpy()
        self._dtype = array.dtype
        array.tofile(self._file)

    def read(self) -> Tensor:
        """The matrix, on the device that it came from."""
        self._file.seek(0)
        array = np.fromfile(self._file, self._dtype, self._shape.numel())
        return torch.from_numpy(array).view(self._shape).to(self._device)


def give_back_freed() -> None:
    """Give memory that was freed back to the system, where its C library can (glibc).

    PyTorch's matrices are aligned, and glibc takes no freed one of the same size for the next:
    without this, what a loop over sites frees stays with the process.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
