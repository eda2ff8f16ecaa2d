"""Data of a few samples."""

import pytest
import torch

from editgym.data.images import Labelled


@pytest.fixture
def labelled():
    """`labelled(inputs, labels)` out of lists."""
    return lambda inputs, labels: Labelled(
        torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)
    )
