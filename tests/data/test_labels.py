import pytest

from editgym.data.errors import DataError
from editgym.data.labels import LabelReader
from editgym.data.text import CommentFormat, Comments, comment_format, read_comments


def labels(values, **arguments):
    reader = LabelReader("rude", **arguments)
    found = [reader(value, f"row {row}") for row, value in enumerate(values, start=1)]
    reader.check("own.csv")
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["0", "1", "0.5", "0.49", " 1 "], [0, 1, 1, 0, 1]),
        ([0, 1.0, True, False], [0, 1, 1, 0]),
        (["True", "FALSE", "yes", "no"], [1, 0, 1, 0]),
        (["toxic", "non-toxic", "Not Toxic", "nontoxic"], [1, 0, 0, 0]),
        (["hateful", "non-hateful", "hate", "not_hate", "nohate"], [1, 0, 1, 0, 0]),
        (["hate speech", "offensive", "neither", "normal"], [1, 1, 0, 0]),
        (["BAD", "NOT_BAD"], [1, 0]),
        (["1", "-1", "-1.0", -1, "0"], [1, None, None, None, 0]),
    ],
)
def test_numbers_and_words(values, expected):
    assert labels(values) == expected


@pytest.mark.parametrize(
    ("values", "toxic_values", "expected"),
    [
        (["a", "B ", "c"], ["b", "C"], [0, 1, 1]),
        (["2", "0", "1", "-1"], [2], [1, 0, 0, None]),
        ([2, 0.0, 1], ["0", "1"], [0, 1, 1]),
        (["toxic", "mild"], ["mild"], [0, 1]),
        ([True, False], [False], [0, 1]),
        (["-1", "1"], [-1], [1, 0]),
    ],
)
def test_the_values_that_mean_toxic_can_be_named(values, toxic_values, expected):
    assert labels(values, toxic_values=toxic_values) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rather", "row 1, column rude: expected a number, true or false, or a word .*'rather'"),
        ("2", r"row 1, column rude: expected a number from 0 to 1, got 2; toxic_values=\[…\]"),
        (-0.5, "row 1, column rude: expected a number from 0 to 1, got -0.5"),
        ("inf", "expected a number, got 'inf'"),
        ("", "row 1, column rude: the label is missing; leave the row out, or write -1"),
        (None, "the label is missing"),
        ("  ", "the label is missing"),
    ],
)
def test_a_label_that_says_nothing_is_named(value, message):
    with pytest.raises(DataError, match=message):
        labels([value, 1, 0])


def test_a_file_with_one_kind_of_label_shows_its_values():
    with pytest.raises(DataError, match=r"rude are 1 \(2\), -1 \(1\), of which -1 stands for no"):
        labels(["1", 1.0, "-1"])
    with pytest.raises(
        DataError, match=r"toxic_values: own\.csv has no label 'hatefull'; .*hateful"
    ):
        labels(["hateful", "fine"], toxic_values=["hatefull"])


@pytest.mark.parametrize("toxic_values", [[], "hateful", [None], 1])
def test_toxic_values_are_a_list_of_values(toxic_values):
    with pytest.raises(ValueError, match="toxic_values must be a list of label values"):
        labels(["0", "1"], toxic_values=toxic_values)


def test_comments_without_a_label_are_left_out(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("said,rude\na,1\nb,-1\nc,0\n")
    columns = comment_format(None, "said", "rude")
    assert read_comments(path, columns) == Comments(("a", "c"), (1, 0))
    signed = CommentFormat("said", "rude", lambda value: value > 0, unlabelled=None)
    assert read_comments(path, signed) == Comments(("a", "b", "c"), (1, 0, 0))
    assert read_comments(path, columns, toxic_values=[0]) == Comments(("a", "c"), (0, 1))
