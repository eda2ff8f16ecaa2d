"""What the fields of a row hold, whoever wrote it: what no measurement gives is no row. So whatever
reads rows need not ask again, and no report shows a row under another name than its cell's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from benchmarks.results.cell import Row, edited_with
from benchmarks.results.lines import json_kind
from benchmarks.results.rows import AGENT_FILES, CURVE_KEYS, TIME_KEYS, Status
from editgym.checks import is_finite, is_whole

_SHOWN = 80  # characters of a value in a message
_LARGEST = 1e100  # sums of squares of such numbers are still numbers
# As editgym.envs.access, which loads PyTorch: what lets an agent see least comes first.
ACCESS = ("reward", "gradient", "data", "oracle")

Rule = tuple[Callable[[Any], bool], str]


def is_hash(value: object) -> bool:
    """Whether a value is a SHA-256, in hexadecimal."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def short(value: object) -> str:
    """A value as it stands in a message."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{json_kind(value)}, {text[:_SHOWN]}…"


def check_cell(row: Row, has_settings: bool) -> None:
    """Refuse what names no cell.

    Args:
        row: A row of any schema.
        has_settings: Whether its schema has settings and a budget.

    Raises:
        KeyError: A field is missing.
        ValueError: A field is of another kind.
    """
    _check(row, _OF_CELLS)
    if has_settings:
        _check(row, _OF_SETTINGS)
        if set(row["budget"]) != {"reward_calls"}:
            raise ValueError(f"budget is {short(row['budget'])}, and must have reward_calls alone")
        _check(row["budget"], {"reward_calls": _COUNT}, "budget.")


def check_form(row: Row) -> None:
    """Refuse what no measurement gives.

    Raises:
        KeyError: A field is missing.
        ValueError: A field is of another kind, or says something else than another one.
    """
    _check(row, _OF_ROWS)
    _check_known(row, _IN_LATER_ROWS)
    for field, rule in _VALUES.items():
        for name, value in row.get(field, {}).items():
            _check({name: value}, {name: rule}, f"{field}.")
    if lines := [name for name in row["metrics"] if not name.isprintable()]:
        raise ValueError(f"metrics has the name {short(lines[0])}, and names must be on one line")
    for field, keys in (("time", TIME_KEYS), ("curves", CURVE_KEYS), ("hardware", _HARDWARE)):
        if missing := [key for key in keys if key not in row[field]]:
            raise ValueError(f"{field} has no {missing[0]}")
    _check(row["curves"], dict.fromkeys(CURVE_KEYS, _CURVE), "curves.")
    _check(row["hardware"], _HARDWARE, "hardware.")
    for field, rules in (("hardware", _IN_LATER_HARDWARE), ("fingerprints", _FILES)):
        _check_known(row[field], rules, f"{field}.")
    task = row["env_kwargs"].get("task")
    if row.get("task") != task:
        raise ValueError(f"task is {short(row.get('task'))}, and env_kwargs.task {short(task)}")
    if row["status"] == "finished":
        _check(row, {"access": (lambda v: v in ACCESS, f"one of {', '.join(ACCESS)}")})
        _check(row, {"error": (lambda v: v is None, "null in a row that is finished")})
        budget = row["budget"]["reward_calls"]
        if row["access"] == "reward" and None not in (budget, row["reward_calls"]):
            right = f"{budget} or less, its budget, in a finished row of the access reward"
            _check(row, {"reward_calls": (lambda v: v <= budget, right)})
    edited_with(row)


def _check(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str = "") -> None:
    for name, (is_right, right) in rules.items():
        if not is_right(value := values[name]):
            raise ValueError(f"{where}{name} is {short(value)}, and must be {right}")


def _check_known(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str = "") -> None:
    _check(values, {name: rule for name, rule in rules.items() if name in values}, where)


def _or_null(rule: Rule) -> Rule:
    is_right, right = rule
    return lambda value: value is None or is_right(value), f"{right}, or null"


def _is_count(value: object) -> bool:
    return is_whole(value) and 0 <= value < 2**63  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return is_finite(value) and -_LARGEST <= value <= _LARGEST  # type: ignore[operator]


def _is_curve(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(point, list) and len(point) == 2 and all(map(_is_number, point))
        for point in value
    )


def _is_of_texts(value: object) -> bool:
    return isinstance(value, dict) and all(
        one is None or isinstance(one, str) for one in value.values()
    )


_OBJECT: Rule = (lambda value: isinstance(value, dict), "an object")
_WORD: Rule = (lambda value: isinstance(value, str), "a text")
_TEXT = _or_null(_WORD)
_COUNT = _or_null((_is_count, "0 or more, a whole number below 2⁶³"))
_HASH = _or_null((is_hash, "a SHA-256, 64 hexadecimal digits"))
_CURVE = _or_null((_is_curve, f"a list of points, two finite numbers each, up to {_LARGEST:.0e}"))
_NUMBER = _or_null((_is_number, f"a finite number up to {_LARGEST:.0e}"))
_SECONDS = _or_null(
    (lambda value: _is_number(value) and value >= 0, f"0 or more and finite, up to {_LARGEST:.0e}")
)

_OF_CELLS: Mapping[str, Rule] = {
    "cell": (is_hash, "the name of a cell, 64 hexadecimal digits"),
    **dict.fromkeys(("suite", "env_id", "agent"), _WORD),
    **dict.fromkeys(("env_kwargs", "agent_config"), _OBJECT),
    "seed": (is_whole, "a whole number"),
}
_OF_SETTINGS: Mapping[str, Rule] = dict.fromkeys(("settings", "budget"), _OBJECT)
_OF_ROWS: Mapping[str, Rule] = {
    "status": (lambda value: value in get_args(Status), f"one of {', '.join(get_args(Status))}"),
    **dict.fromkeys(("metrics", "curves", "time", "fingerprints", "versions", "hardware"), _OBJECT),
    **dict.fromkeys(("access", "error", "edit_file"), _TEXT),
    **dict.fromkeys(("reward_calls", "edit_bytes"), _COUNT),
    **dict.fromkeys(("edit_sha256", "row_sha256"), _HASH),
}
# Rows of earlier versions have not all of them.
_IN_LATER_ROWS: Mapping[str, Rule] = {
    "peak_memory_bytes": _COUNT,
    "git": _TEXT,
    "modules": _OBJECT,
    "records_sha256": _HASH,
    "rescored_from": _OBJECT,
}
_VALUES: Mapping[str, Rule] = {
    "metrics": _NUMBER,
    "time": _SECONDS,
    "versions": _TEXT,
    "modules": _TEXT,
}
_HARDWARE: Mapping[str, Rule] = {"cpu": _TEXT, "cpu_count": _COUNT, "gpu": _TEXT}
_IN_LATER_HARDWARE: Mapping[str, Rule] = dict.fromkeys(("machine", "system", "instructions"), _TEXT)
_FILES: Mapping[str, Rule] = {
    **dict.fromkeys(("model", "data", "text"), _TEXT),
    **dict.fromkeys(("files", AGENT_FILES), _or_null((_is_of_texts, "an object of texts"))),
}
