import pytest
import torch

from editgym.weights.classifiers.dependence import what_matters

A, B, C = torch.randn(3, 4), torch.randint(9, (3, 4)), torch.randn(3, 4)


def written(a, b, c):
    """`c` is copied into a view of a tensor that begins as zeros."""
    made = torch.zeros(3, 8)
    made[:, :4].copy_(c)
    return made[:, 2:] * 2


def branching(a, b, c):
    return a + 1 if bool((b > 4).any()) else a


COMPUTATIONS = {
    "floats": (lambda a, b, c: a @ c.T, {0, 2}),
    "whole numbers and masks": (lambda a, b, c: torch.where(b > 4, a, 0.0), {0, 1}),
    "through argmax": (lambda a, b, c: a[torch.arange(3), c.argmax(1)], {0, 2}),
    "detached": (lambda a, b, c: a.detach().clone(), {0}),
    "shapes alone": (lambda a, b, c: a + torch.zeros_like(c) + c.new_ones(b.shape), {0}),
    "written in place": (written, {2}),
    "a view": (lambda a, b, c: a.view(-1)[2:5], {0}),
    "read by Python": (branching, {0, 1}),
    "the tensor itself": (lambda a, b, c: b, {1}),
    "nothing": (lambda a, b, c: torch.ones(2), set()),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_what_a_result_depends_on(name):
    compute, expected = COMPUTATIONS[name]
    given = [A.clone(), B.clone(), C.clone()]
    assert what_matters(lambda: compute(*given), given) == expected


def test_places_of_what_is_no_tensor_are_passed_over():
    given = [None, A.clone(), 3]
    assert what_matters(lambda: given[1] * given[2], given) == {1}
