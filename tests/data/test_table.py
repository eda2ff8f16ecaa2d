import gzip
import json

import pytest

from editgym.data.errors import DataError
from editgym.data.table import table

COLUMNS = ("said", "rude")
ROWS = [{"said": "naïve, “quoted”\nlines", "rude": "1"}, {"said": "Ünlü €5", "rude": "0"}]


def as_csv(rows, separator=","):
    lines = [separator.join(COLUMNS)]
    lines += [f'"{row["said"]}"{separator}{row["rude"]}' for row in rows]
    return "\r\n".join(lines) + "\r\n"


FORMS = {
    "own.csv": as_csv(ROWS),
    "own.txt": as_csv(ROWS),
    "own.tsv": as_csv(ROWS, "\t"),
    "own.jsonl": "".join(json.dumps(row) + "\n\n" for row in ROWS),
    "own.ndjson": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
}


def written(path, text, encoding="utf-8"):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode(encoding))
    return path


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_in_every_encoding_plain_and_compressed(
    tmp_path, name, encoding, ending
):
    path = written(tmp_path / f"{name}{ending}", FORMS[name], encoding)
    assert [row for _, row in table(path, COLUMNS, encoding=encoding)] == ROWS


def test_a_byte_order_mark_needs_no_argument(tmp_path):
    path = written(tmp_path / "own.csv", as_csv(ROWS), "utf-8-sig")
    assert [row for _, row in table(path, COLUMNS)] == ROWS


def test_rows_count_from_one_and_empty_lines_do_not_count(tmp_path):
    path = written(tmp_path / "own.csv", "said,rude\nx,1\n\ny,0\n")
    assert [where.rpartition(", ")[2] for where, _ in table(path, COLUMNS)] == ["row 1", "row 2"]


def test_optional_values_may_be_missing_and_their_columns_may_not(tmp_path):
    path = written(tmp_path / "own.csv", "said,who\nx\ny,me\n")
    assert [row["who"] for _, row in table(path, ("said",), optional=("who",))] == [None, "me"]
    with pytest.raises(DataError, match="there is no column 'whom'; there are said, who"):
        list(table(path, ("said",), optional=("whom",)))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_another_encoding_is_named_with_its_line(tmp_path, ending):
    path = written(tmp_path / f"own.csv{ending}", "said,rude\nx,1\ncafé,0\n", "latin-1")
    with pytest.raises(DataError, match=r"own\.csv.* UTF-8 text: line 3: .*encoding='cp1252'"):
        list(table(path, COLUMNS))
    assert [row["said"] for _, row in table(path, COLUMNS, encoding="latin-1")] == ["x", "café"]


@pytest.mark.parametrize("encoding", ["klingon", "", None, 8])
def test_an_encoding_that_is_none_is_an_error(tmp_path, encoding):
    path = written(tmp_path / "own.csv", as_csv(ROWS))
    with pytest.raises(DataError, match=r"encoding: there is no .*; write one of Python's names"):
        list(table(path, COLUMNS, encoding=encoding))


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = written(tmp_path / "own.csv.gz", as_csv(ROWS * 50))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"own\.csv\.gz is no whole gzip file"):
        list(table(path, COLUMNS))
    path.write_text("said,rude\n")
    with pytest.raises(DataError, match=r"own\.csv\.gz is no whole gzip file"):
        list(table(path, COLUMNS))
