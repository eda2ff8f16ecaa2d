"""Arguments that a task cannot do without are asked for by name."""

import pytest

from editgym.tasks import make_task


def test_what_a_task_needs_is_named():
    with pytest.raises(ValueError, match=r"unlearning/custom needs model and data, .*model=…"):
        make_task("unlearning/custom", weights="x.pt")
    with pytest.raises(ValueError, match=r"unlearning/custom needs data, which must be given"):
        make_task("unlearning/custom", model="torch.nn:Linear", weights="x.pt")


def test_a_class_has_no_weights_of_its_own(own):
    with pytest.raises(
        ValueError, match=r"weights must be a file, .* got None; only a folder of tr"
    ):
        own(weights=None)
