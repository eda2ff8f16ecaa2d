"""Files with one JSON value a line: rows, marks of verification, records of edits. Whoever writes
by hand, and every crash, may leave anything there; what is no JSON is said in words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

# Bytes of a line that is read: a record holds questions and answers, not books.
_LONGEST = 16 * 2**20

# Brackets within brackets, of which rows have a few: what walks through them has an end, too.
_DEEPEST = 100
_TOO_DEEP = "brackets within brackets have no end"
_TEXT = 100_000  # characters of a stranger's text that are kept

_RIGHT = (
    "there must be the file of records that was written with the row, or none: then its edits are"
    " not shown"
)


class ResultsError(ValueError):
    """A file of results that cannot be used: rows of another schema, a damaged line, a row that was
    changed after it was written, or a journal or records that are not the row's.
    """


class _NoValueError(ValueError):
    """What Python's reader takes for a value, and JSON does not have, or nobody can work with."""


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Where every line stands, and the line; a torn last one is dropped.

    Raises:
        ResultsError: What lies there is no file.
    """
    if path.exists():
        if not path.is_file():
            raise ResultsError(
                f"{path} is a folder, a pipe or a device, and must be a file: move it away, or give"
                " another folder"
            )
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            yield f"{path}, line {number}", line


def json_of(line: bytes) -> Any:
    """The JSON value that a line holds.

    Raises:
        ValueError: It holds none; the message, which goes on after "is not JSON", says where.
    """
    try:
        value = json.loads(line.decode(), parse_constant=_no_number, parse_float=_finite)
        _check_depth(value, line)
        if b"\\u" in line:  # only so can it say half of a character, which nobody can write again
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise ValueError(f"from character {error.pos + 1} on") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"from byte {error.start + 1} on, which is no text in UTF-8") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text in it holds half of a character") from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    except _NoValueError:
        raise
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise ValueError("a number has more digits than anybody reads") from error


def records_in(file: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """The per-edit records in a file, the first `most` of them.

    Raises:
        ResultsError: A line is none, or the file cannot be read; the message names both.
    """
    try:
        with file.open("rb") as opened:
            for number in count(1) if most is None else range(1, most + 1):
                if not (line := opened.readline(_LONGEST + 1)):
                    return
                yield _record(line, f"{file}, line {number}")
    except OSError as error:
        raise ResultsError(f"{file} cannot be read ({error.strerror}); {_RIGHT}") from error


def _record(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > _LONGEST:
        raise ResultsError(f"{where} has more than {_LONGEST:,} bytes; {_RIGHT}")
    try:
        record = json_of(line)
    except ValueError as error:
        raise ResultsError(f"{where} is not JSON ({error}); {_RIGHT}") from error
    if not isinstance(record, dict):
        raise ResultsError(f"{where} is {json_kind(record)}, no object; {_RIGHT}")
    return record


def json_kind(value: object) -> str:
    """What a JSON value is, in words, where another kind was expected."""
    kinds: dict[type, str] = {
        **{dict: "an object", list: "a list", str: "a text", bool: "true or false"},
        **{int: "a number", float: "a number", type(None): "null"},
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def printable(text: str, kept: str = "\n\t") -> str:
    """A stranger's text, also where it holds halves of characters, which no file takes, or what
    moves a terminal's cursor, or has no end.

    Args:
        text: The text.
        kept: What stays as it is beside printable characters.
    """
    shown = text if len(text) <= _TEXT else f"{text[:_TEXT]} […]"
    return "".join(
        one if one in kept or one.isprintable() else one.encode("unicode_escape").decode()
        for one in shown
    )


def _check_depth(value: Any, line: bytes) -> None:
    if line.count(b"[") + line.count(b"{") <= _DEEPEST:
        return
    level, depth = [value], 0
    while level := [one for one in level if isinstance(one, dict | list)]:
        if (depth := depth + 1) > _DEEPEST:
            raise _NoValueError(_TOO_DEEP)
        level = [
            inner for one in level for inner in (one.values() if isinstance(one, dict) else one)
        ]


def _no_number(text: str) -> None:
    raise _NoValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NoValueError(f"{text} is beyond all numbers")
    return number
