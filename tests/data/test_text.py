import json

import pytest
import torch

from editgym.data.errors import DataError
from editgym.data.text import FORMATS, BagOfWords, Comments, comment_format, read_comments, words

SMALL = Comments(("a", "b", "c", "d", "e"), (1, 0, 1, 1, 0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't SHOUT, Émile!", ["don't", "shout", "émile"]),
        ("RT @someone: see https://t.co/x?y=1 &amp; smile", ["rt", "see", "smile"]),
        ("&lt;3 snake_case 42", ["3", "snake", "case", "42"]),
        ("", []),
        ("!!!", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_bag_of_words_counts_the_most_frequent_words():
    bag = BagOfWords.of(["b a b", "c a", "d"], 3)
    assert bag.vocabulary == ("a", "b", "c")
    counts = bag(["b c b z", ""])
    assert counts.tolist() == [[0, 2, 1], [0, 0, 0]]
    assert counts.dtype == torch.uint8
    assert bag(["a " * 300])[0, 0] == 255


def test_rows_are_taken_balanced_and_divided():
    assert SMALL.take([4, 0, 0]) == Comments(("e", "a", "a"), (0, 1, 1))
    assert SMALL.balanced() == Comments(("a", "b", "c", "e"), (1, 0, 1, 0))
    parts = SMALL.divided((0.4, 0.2))
    assert [part.texts for part in parts] == [("a", "b"), ("c",), ("d", "e")]
    mixed = SMALL.shuffled(1)
    assert mixed != SMALL
    assert sorted(zip(mixed.texts, mixed.labels, strict=True)) == sorted(
        zip(SMALL.texts, SMALL.labels, strict=True)
    )


ROWS = {
    "davidson": (
        {"class": "0", "tweet": "x"},
        {"class": "1", "tweet": "y"},
        {"class": "2", "tweet": "z"},
    ),
    "jigsaw": (
        {"comment_text": "x", "toxic": "1"},
        {"comment_text": "y", "toxic": "1"},
        {"comment_text": "z", "toxic": "0"},
    ),
    "civil_comments": (
        {"text": "x", "toxicity": "0.9"},
        {"text": "y", "toxicity": "0.5"},
        {"text": "z", "toxicity": "0.49"},
    ),
    "civil_comments_kaggle": (
        {"comment_text": "x", "target": "1"},
        {"comment_text": "y", "target": "0.6"},
        {"comment_text": "z", "target": "0"},
    ),
}


def written(path, rows):
    separator = "\t" if path.suffix == ".tsv" else ","
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(
            "\n".join(separator.join(map(str, line)) for line in [rows[0], *map(dict.values, rows)])
            + "\n"
        )
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_published_files(tmp_path, name, ending):
    path = written(tmp_path / f"data.{ending}", ROWS[name])
    assert read_comments(path, comment_format(name, None, None)) == Comments(
        ("x", "y", "z"), (1, 1, 0)
    )


def test_own_columns_quotes_line_breaks_and_blank_texts(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('﻿said,rude\n"one, two\nlines",1\n"   ",0\nfine,0\n', encoding="utf-8")
    assert read_comments(path, comment_format(None, "said", "rude")) == Comments(
        ("one, two\nlines", "fine"), (1, 0)
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("said,bad\nx,1\n", r"own\.csv: there is no column 'rude'; there are said, bad; text_col"),
        ("said,rude\nx,1\ny,hm\n", r"own\.csv, row 2, column rude: expected a number, .* got 'hm'"),
        ("said,rude\nx,1\ny,nan\n", "row 2, column rude: expected a number"),
        ("said,rude\nx,1\ny\n", "row 2, column rude: the label is missing"),
        ("said,rude\nx,1\ny,\n", "row 2, column rude: the label is missing"),
        ("rude,said\n1,x\n0\n", "row 2: the value of column 'said' is missing"),
        ("rude,said\n1,x\n0,y, z\n", "row 2 has 3 cells, and the header has 2: a text"),
        ("said,rude,rude\nx,1,0\n", "there is more than one column 'rude'"),
        ('said,rude\nx,1\n"y,0\nz,1\n', "not a readable table: line 4: unexpected end of data"),
        ("", r"own\.csv is empty"),
        ("said,rude\nx,1\ny,1\n", "every text has the same label"),
        ("said,rude\n", "every text has the same label"),
    ],
)
def test_malformed_table_names_file_row_and_column(tmp_path, content, message):
    path = tmp_path / "own.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_comments(path, comment_format(None, "said", "rude"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"row 2 is not JSON"),
        ("[1]", "row 2 must be a JSON object, got list"),
        ('{"said": 3, "rude": 0}', "row 2, column said: expected a text, got 3"),
        ('{"said": "\\ud800", "rude": 0}', r"expected a text, got '\\ud800'"),
        ('{"said": "y", "rude": null}', "row 2, column rude: the label is missing"),
        ('{"said": "y"}', "row 2: there is no column 'rude'; there are said"),
        ('{"said": null, "rude": 1}', "row 2: the value of column 'said' is missing"),
        ('{"said": "y", "rude": [1]}', "row 2, column rude: expected a number"),
    ],
)
def test_malformed_json_lines_name_file_row_and_column(tmp_path, line, message):
    path = tmp_path / "own.jsonl"
    path.write_text('{"said": "x", "rude": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_comments(path, comment_format(None, "said", "rude"))


def test_missing_and_unreadable_files_are_named(tmp_path):
    columns = comment_format("jigsaw", None, None)
    with pytest.raises(DataError, match=r"no file at .*nothing\.csv"):
        read_comments(tmp_path / "nothing.csv", columns)
    (tmp_path / "binary.csv").write_bytes(b"comment_text,toxic\n\xff\xfe\x00,1\n")
    with pytest.raises(DataError, match=r"binary\.csv is not a readable table of UTF-8 text"):
        read_comments(tmp_path / "binary.csv", columns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("jigsaws", None, None), "there is no 'jigsaws'; the formats are davidson, jigsaw"),
        ((None, None, None), "there is no None"),
        (("jigsaw", "text", None), "go together"),
    ],
)
def test_unknown_format_is_an_error(arguments, message):
    with pytest.raises(DataError, match=message):
        comment_format(*arguments)


@pytest.mark.parametrize("label", ["7", "1.5", "-2"])
def test_davidsons_classes_are_three(tmp_path, label):
    path = tmp_path / "tweets.csv"
    path.write_text(f"tweet,class\na,0\nb,1\nc,2\nd,-1\ne,{label}\n")
    with pytest.raises(
        DataError, match=f"row 5, column class: expected the class 0, 1 or 2, got {label}"
    ):
        read_comments(path, FORMATS["davidson"])
    path.write_text("tweet,class\na,0\nb,1.0\nc,2\n")
    assert read_comments(path, FORMATS["davidson"]).labels == (1, 1, 0)
