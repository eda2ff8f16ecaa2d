"""Files with one JSON value a line: rows, marks of verification, records of edits. Whoever writes
by hand, and every crash, may leave anything there; what is no JSON is said in words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class _NoNumberError(ValueError):
    """A word that Python's reader takes for a number, and JSON does not have."""


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Where every line stands, and the line; a torn last one is dropped."""
    if path.exists():
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            yield f"{path}, line {number}", line


def json_of(line: bytes) -> Any:
    """The JSON value that a line holds.

    Raises:
        ValueError: It holds none; the message, which goes on after "is not JSON", says where.
    """
    try:
        return json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"from character {error.pos + 1} on") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"from byte {error.start + 1} on, which is no text in UTF-8") from error
    except RecursionError as error:
        raise ValueError("brackets within brackets have no end") from error
    except _NoNumberError:
        raise
    except ValueError as error:  # Python reads no number of more than some thousand digits
        raise ValueError("a number has more digits than anybody reads") from error


def json_kind(value: object) -> str:
    """What a JSON value is, in words, where another kind was expected."""
    kinds: dict[type, str] = {
        **{dict: "an object", list: "a list", str: "a text", bool: "true or false"},
        **{int: "a number", float: "a number", type(None): "null"},
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def _no_number(text: str) -> None:
    raise _NoNumberError(f"{text} is no number of JSON")
