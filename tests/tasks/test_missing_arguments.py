"""Arguments that a task cannot do without are asked for by name."""

import pytest

from editgym.tasks import make_task


def test_what_a_task_needs_is_named():
    with pytest.raises(ValueError, match=r"unlearning/custom needs weights and data, .*weights=…"):
        make_task("unlearning/custom", model="torch.nn:Linear")
    with pytest.raises(ValueError, match=r"unlearning/custom needs data, which must be given"):
        make_task("unlearning/custom", model="torch.nn:Linear", weights="x.pt")
