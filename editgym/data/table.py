"""Tables of text, row by row: CSV, TSV and JSON Lines in any encoding, plain or compressed."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from editgym.data.errors import DataError

UTF8 = "utf-8"
_LONGEST_FIELD = 2**24
_JSON = (".jsonl", ".json", ".ndjson")
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)
_Rows = Iterator[tuple[int, Mapping[str, Any]]]


def table(
    path: str | os.PathLike[str],
    needed: Sequence[str],
    *,
    optional: Sequence[str] = (),
    encoding: str = UTF8,
    hint: str = "",
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a table, each with where it stands.

    The file's ending tells its form: `.tsv`, `.jsonl` (`.json`, `.ndjson`: an object a line), and
    CSV for any other, each also with `.gz` behind it. Rows count from 1, below a header.

    Args:
        path: The file.
        needed: Columns that must be there, with a value in every row.
        optional: Columns that must be there too, whose values may be missing (None).
        encoding: A codec of Python's; a byte order mark is no part of UTF-8 text.
        hint: What the message of a missing column says last: how columns are named.

    Raises:
        DataError: The file is missing, damaged or in another encoding, lacks a column, or has a
            malformed row or one without a needed value; the message names file, row and column.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"data: no file at {path}")
    codec, columns = _codec(encoding), (*needed, *optional)
    ending = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    try:
        with _opened(path, codec) as file:
            if ending in _JSON:
                rows = _json_rows(file, path, columns, hint)
            else:
                delimiter = "\t" if ending == ".tsv" else ","
                rows = _csv_rows(file, path, delimiter, columns, hint)
            for number, row in rows:
                where = f"data: {path}, row {number}"
                for column in needed:
                    if row[column] is None:
                        raise DataError(f"{where}: the value of column {column!r} is missing")
                yield where, row
    except UnicodeError as error:
        raise DataError(_undecoded(path, codec, error)) from error
    except _DAMAGED as error:
        raise DataError(f"data: {path} is no whole gzip file: {error}") from error


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # Python has codecs that are not of texts, such as hex
    except (LookupError, TypeError) as error:
        raise DataError(
            f"encoding: there is no {encoding!r}; write one of Python's names, such as utf-8,"
            " cp1252, latin-1 or utf-16"
        ) from error
    return "utf-8-sig" if name == UTF8 else name


def _opened(path: Path, codec: str) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=codec, newline="")
    return path.open(encoding=codec, newline="")


def _undecoded(path: Path, codec: str, error: UnicodeError) -> str:
    """The message of a file in another encoding, with the line of the first byte that has no
    meaning.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        content = file.read()
    line = 1
    try:
        content.decode(codec)
    except UnicodeDecodeError as first:
        line += content[: first.start].decode(codec, "ignore").count("\n")
        error = first
    name = UTF8.upper() if codec == "utf-8-sig" else codec
    return (
        f"data: {path} is not a readable table of {name} text: line {line}: {error}; name the"
        " file's own encoding, such as encoding='cp1252'"
    )


def _csv_rows(
    file: IO[str], path: Path, delimiter: str, columns: Sequence[str], hint: str
) -> _Rows:
    csv.field_size_limit(_LONGEST_FIELD)
    # Without `strict` a quote that is never closed swallows the rest of the file in silence.
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        filled = (cells for cells in reader if cells)
        header = next(filled, None)
        if header is None:
            raise DataError(f"data: {path} is empty")
        _check_header(header, path, columns, hint)
        for number, cells in enumerate(filled, start=1):
            if len(cells) > len(header):
                raise DataError(
                    f"data: {path}, row {number} has {len(cells)} cells, and the header has"
                    f" {len(header)}: a text that holds the separator must stand in quotes"
                )
            yield number, dict.fromkeys(header) | dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise DataError(
            f"data: {path} is not a readable table: line {reader.line_num}: {error}; a text that"
            " begins with a quote must stand in quotes, with each of its own doubled"
        ) from error


def _check_header(header: Sequence[str], path: Path, columns: Sequence[str], hint: str) -> None:
    for column in columns:
        if header.count(column) != 1:
            found = "is no" if column not in header else "is more than one"
            raise DataError(
                f"data: {path}: there {found} column {column!r}; there are {', '.join(header)}"
                f"{hint}"
            )


def _json_rows(file: IO[str], path: Path, columns: Sequence[str], hint: str) -> _Rows:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"data: {path}, row {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"{where} is not JSON, of which each line has an object: {error}"
            ) from (error)
        if not isinstance(row, dict):
            raise DataError(f"{where} must be a JSON object, got {type(row).__name__}")
        for column in columns:
            if column not in row:
                raise DataError(
                    f"{where}: there is no column {column!r}; there are {', '.join(row)}{hint}"
                )
        yield number, row
