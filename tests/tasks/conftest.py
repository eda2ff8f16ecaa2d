"""The task of one's own, as the tests make it."""

import numpy as np
import pytest

from editgym.tasks import make_task


@pytest.fixture
def own(custom_arguments, small_images, tmp_path):
    """`own(arrays={...}, **arguments)`: `unlearning/custom` on `small_images` and more arrays."""

    def make(arrays=None, **arguments):
        if arrays:
            np.savez(tmp_path / "more.npz", **small_images | arrays)
            arguments = {"data": str(tmp_path / "more.npz")} | arguments
        return make_task("unlearning/custom", **custom_arguments | arguments)

    return make
