"""What is to be forgotten: classes by number or name, samples by row or file."""

import pytest
import torch

from editgym.data.images import ImageData, Labelled
from editgym.tasks.unlearning.goals import checked_goals, checked_rows, given_samples

ANIMALS = ("cat", "dog", "frog")


def data_of(total, files=()):
    """`total` images of nothing, from the file own.npz."""
    part = Labelled(torch.zeros(total, 1, 2, 2), torch.zeros(total, dtype=torch.long))
    return ImageData(part, part, 1, files=files, source="own.npz")


@pytest.mark.parametrize(
    ("forget_class", "goals", "expected"),
    [
        ("dog", None, ((1,),)),
        (["frog", "cat"], None, ((0, 2),)),
        (["frog", 0], None, ((0, 2),)),
        (2, None, ((2,),)),
        (0, ["dog", ["frog", 0]], ((1,), (0, 2))),
    ],
)
def test_classes_are_found_by_name(forget_class, goals, expected):
    assert checked_goals(forget_class, goals, 3, ANIMALS) == expected


@pytest.mark.parametrize(
    ("forget_class", "goals", "message"),
    [
        ("dgo", None, r"forget_class: there is no class 'dgo' \(did you mean 'dog'\?\)"),
        (0, [0, "bird"], "goals: there is no class 'bird'.*the classes are cat, dog, frog"),
        (["dog", 1], None, "forget_class: .* is not a class or a set of different classes"),
        (list(ANIMALS), None, "that leaves one to retain"),
    ],
)
def test_names_that_are_wrong_are_named(forget_class, goals, message):
    with pytest.raises(ValueError, match=message):
        checked_goals(forget_class, goals, 3, ANIMALS)


def test_a_name_where_classes_have_none_is_an_error():
    with pytest.raises(ValueError, match="'dog' is a name, and the classes of these data have non"):
        checked_goals("dog", None, 3)


def test_a_number_that_is_another_classs_name_is_refused():
    folders = tuple(sorted(map(str, range(12))))
    assert checked_goals("2", None, 12, folders) == ((4,),)
    assert checked_goals(1, None, 12, folders) == ((1,),), "here name and number agree"
    with pytest.raises(
        ValueError, match="forget_class: 2 could be class number 2, or the class wi"
    ):
        checked_goals(2, None, 12, folders)


@pytest.mark.parametrize(
    ("given", "expected"),
    [([4], (4,)), ([9, 0, 3], (0, 3, 9)), (["dog/1.png", 0], (0, 2)), (("cat/0.png",), (0,))],
)
def test_rows_are_whole_numbers_or_files(given, expected):
    files = ("cat/0.png", "dog/0.png", "dog/1.png", *(f"frog/{i}.png" for i in range(7)))
    assert checked_rows("forget_indices", given, data_of(10, files)) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"forget_indices must be a list of training samples, got \[\]"),
        (7, "must be a list of training samples, got 7"),
        ("dog/1.png", "must be a list of training samples, got 'dog/1.png'"),
        ([3, 10], "forget_indices: 10 is no row of own.npz, 0 to 9"),
        ([-1], "-1 is no row"),
        ([True], "True is no row"),
        ([2.0], "2.0 is no row"),
        (["dog/0.jpg"], "'dog/0.jpg' is no row .*, or a file of it, such as 'dog/0.png'"),
        ([1, "dog/0.png"], "1 and 'dog/0.png' are the same sample twice"),
        ([4, 4], "4 and 4 are the same sample twice"),
    ],
)
def test_what_is_no_row_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        checked_rows("forget_indices", given, data_of(10, ("cat/0.png", "dog/0.png")))


def test_given_samples_are_places_in_the_model_split():
    found = given_samples("forget_indices", (2, 7), [9, 7, 4, 2], data_of(10))
    assert (found.rows, found.label) == ((3, 1), "forget samples 2, 7")


def test_labels_of_many_samples_differ():
    first, second = (
        given_samples("forget_indices", tuple(rows), list(range(100)), data_of(100)).label
        for rows in ([*range(20), 50, 90], [*range(20), 51, 90])
    )
    assert first != second
    assert first.startswith("forget 22 samples, 0 to 90 [")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ((2, 5), r"forget_indices: rows 5 \(5.png\) of own.npz are not in .* rows 2 \(2.png\), 4"),
        ((2, 4, 7, 9), "4 samples are all of the 4 of own.npz that the network was trained on"),
    ],
)
def test_samples_that_cannot_be_forgotten_are_named(wanted, message):
    data = data_of(10, tuple(f"{row}.png" for row in range(10)))
    with pytest.raises(ValueError, match=message):
        given_samples("forget_indices", wanted, [9, 7, 4, 2], data)
