"""Which rows are in which split: at random, by class, by what the network was trained on."""

from dataclasses import replace

import pytest
import torch

from editgym.data.errors import DataError
from editgym.data.images import ImageData, Labelled
from editgym.tasks.unlearning.splits import Rows, Splits


def samples(labels):
    labels = torch.as_tensor(labels)
    return Labelled(torch.arange(float(len(labels))).view(-1, 1, 1, 1), labels)


@pytest.fixture
def data():
    """100 rows of class 0, 10 of class 1, 3 of class 2."""
    return ImageData(samples([0] * 100 + [1] * 10 + [2] * 3), samples([0, 1, 2]), 3)


def parts(rows):
    return [part.tolist() for part in (rows.model, rows.policy, rows.validation)]


def sizes(rows):
    return [len(part) for part in parts(rows)]


def by_class(data, rows):
    return [data.train.labels[part].bincount(minlength=3).tolist() for part in parts(rows)]


def test_every_row_is_in_one_part(data):
    for stratified in (False, True):
        for chosen in ({}, {"pinned": [5, 112]}, {"members": list(range(60))}):
            rows = Rows.drawn(data, 3, stratified=stratified, **chosen)
            together = torch.cat([rows.model, rows.policy, rows.validation])
            assert together.sort().values.tolist() == list(range(113))


def test_stratified_parts_have_every_class(data):
    for seed in range(5):
        rows = Rows.drawn(data, seed, stratified=True)
        assert by_class(data, rows) == [[70, 7, 1], [15, 1, 1], [15, 2, 1]]
    assert parts(Rows.drawn(data, 0, stratified=True)) != parts(
        Rows.drawn(data, 1, stratified=True)
    )


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (4, [2, 1, 1])]
)
def test_few_samples_of_a_class_are_spread(count, expected):
    data = ImageData(samples([0] * 40 + [1] * count), samples([0, 1]), 2)
    rows = Rows.drawn(data, 0, stratified=True)
    assert [own[1] for own in by_class(data, rows)] == expected


@pytest.mark.parametrize("stratified", [False, True])
def test_pinned_rows_are_in_the_model_split(data, stratified):
    pinned = [0, 50, 105, 110, 112]
    for seed in range(5):
        rows = Rows.drawn(data, seed, stratified=stratified, pinned=pinned)
        assert set(pinned) <= set(rows.model.tolist())
        assert sizes(rows) == [79, 17, 17]


def test_more_pinned_rows_than_the_model_split_takes_leave_rewards_first(data):
    rows = Rows.drawn(data, 0, pinned=range(110))
    assert sizes(rows) == [110, 3, 0]


def test_members_are_the_model_split(data):
    members = [3, 1, 40, 100, 111]
    rows = Rows.drawn(data, 0, members=members)
    assert sorted(rows.model.tolist()) == sorted(members)
    assert sizes(rows) == [5, 54, 54]


def test_parts_that_are_given_are_not_drawn(data):
    own = samples([0, 1])
    policy, validation = replace(data, policy=own), replace(data, validation=own)
    both = replace(policy, validation=own)
    assert sizes(Rows.drawn(data, 0)) == [79, 17, 17]
    assert sizes(Rows.drawn(policy, 0)) == [96, 0, 17]
    assert sizes(Rows.drawn(validation, 0)) == [96, 17, 0]
    assert sizes(Rows.drawn(both, 0)) == [113, 0, 0]
    splits = Splits.at(both, Rows.drawn(both, 0))
    assert splits.policy is splits.validation is own
    assert len(splits.model) == 113
    assert sizes(Rows.drawn(policy, 0, members=[1, 2])) == [2, 0, 111]
    assert sizes(Rows.drawn(validation, 0, members=[1, 2])) == [2, 111, 0]


def test_nothing_left_for_rewards_is_an_error(data):
    with pytest.raises(
        DataError,
        match="data: 1 training images of the training data leave none for the policy split",
    ):
        Rows.drawn(ImageData(samples([0]), samples([0]), 1), 0)
    with pytest.raises(
        DataError, match="members: 113 of 113 training images of the training data leave none"
    ):
        Rows.drawn(data, 0, members=range(113))
    both = replace(data, policy=samples([0]), validation=samples([0]))
    with pytest.raises(DataError, match="beside x_policy and x_validation nothing is made of"):
        Rows.drawn(both, 0, members=[0, 1])
