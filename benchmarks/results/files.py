"""The file that rows are appended to, and reading it back, also where an older version wrote it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from benchmarks.results.cell import Cell, Row
from benchmarks.results.form import check_cell, check_form
from benchmarks.results.integrity import row_problem
from benchmarks.results.lines import ResultsError, json_kind, json_of, lines_of
from benchmarks.results.migration import MIGRATED_SCHEMA, migrated
from benchmarks.results.rows import (
    AGENT_FILES,
    FIELDS,
    FINISHED_FIRST,
    SCHEMA,
    differing_fields,
)

ROWS_FILE = "results.jsonl"


def read_rows(path: Path, *, refuse_changed: bool = True) -> list[Row]:
    """The row of every cell, in the order in which the cells first appear; no file is no rows.

    Of several rows of a cell a finished one counts, then an unsupported one; of several that failed
    the last. Where two are finished with different results, the last counts if they are of other
    files of the agent, since then the cell was run again for that; otherwise nobody can tell which
    is right. Rows of schema 1 are read as rows of schema 2 (`benchmarks.results.migration`). A last
    line without its line break was torn by a crash and is dropped.

    Args:
        path: The file.
        refuse_changed: Whether a row that was changed after it was written is an error; False is
            for who asks `row_problem` himself.

    Raises:
        ResultsError: A row has another `schema`, was changed, or has another result than one of
            its cell before it; or a line that is not the torn last one is no JSON object.
    """
    rows: dict[str, Row] = {}
    for where, line in lines_of(path):
        row = parse_row(line, where)
        if refuse_changed and (problem := row_problem(row)):
            raise ResultsError(
                f"{where}, cell {row['cell']}: {problem}. Put back the line as it was written, or"
                " delete it and run its cell again"
            )
        _keep(row, rows, where)
    return list(rows.values())


def read_what_can_be(path: Path) -> tuple[list[Row], list[str]]:
    """The row of every cell, as `read_rows` has it, whether or not it was changed, and why other
    lines cannot be read.
    """
    rows: dict[str, Row] = {}
    problems = []
    for where, line in lines_of(path):
        try:
            _keep(parse_row(line, where), rows, where)
        except ResultsError as error:
            problems.append(str(error))
    return list(rows.values()), problems


def rows_in(*folders: Path) -> list[Row]:
    """The rows of one or more folders; a cell that several have counts once, as if its rows were in
    one file.

    Raises:
        FileNotFoundError: A folder has none.
        ResultsError: Rows cannot be read, or have different results, see `read_rows`.
    """
    found: dict[str, Row] = {}
    for folder in folders:
        rows = read_rows(folder / ROWS_FILE)
        if not rows:
            raise FileNotFoundError(no_rows(folder))
        for row in rows:
            _keep(row, found, str(folder / ROWS_FILE))
    return list(found.values())


def _keep(row: Row, rows: dict[str, Row], where: str) -> None:
    """Put a row among those before it, by cell, in the place of a worse one.

    Raises:
        ResultsError: One of its cell has another result.
    """
    other = rows.setdefault(row["cell"], row)
    rank, before = (FINISHED_FIRST.index(one["status"]) for one in (row, other))
    if rank > before:
        return
    both = row["status"] == other["status"] == "finished" and not _of_other_files(row, other)
    if both and (fields := differing_fields(row, other)):
        raise ResultsError(
            f"{where}, cell {row['cell']}: a line before has another result of this cell, in"
            f" {', '.join(fields)}. Find out which of the two is right (leaderboard validate DIR"
            f" --rows {row['cell'][:12]}), and delete the other line"
        )
    rows[row["cell"]] = row


def _of_other_files(a: Row, b: Row) -> bool:
    """Whether two rows are of other files of the agent's, which the cell was run again for."""
    one, other = (row["fingerprints"].get(AGENT_FILES) or {} for row in (a, b))
    return any(one[name] != other[name] for name in one.keys() & other.keys())


def no_rows(folder: Path) -> str:
    """What an error says of a folder without rows."""
    if folder.is_file():
        right = folder.parent if folder.name == ROWS_FILE else f"the folder with {ROWS_FILE}"
        return f"{folder} is a file, and must be a folder: give {right}"
    return f"no rows in {folder / ROWS_FILE}: run a suite with --out {folder} first"


def append_row(path: Path, row: Row) -> tuple[int, int]:
    """Append `row` so that it survives a crash of the machine; a torn last line is cut off first.

    Returns:
        Where the row was to begin and to end, in bytes: where nobody else writes, it does.

    Raises:
        OSError: The file cannot be written.
        ValueError: The row holds a number that strict JSON does not have.
    """
    line = json.dumps(row, allow_nan=False, ensure_ascii=False).encode() + b"\n"
    with path.open("a+b") as file:
        _cut_torn_line(file)
        start = file.seek(0, os.SEEK_END)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return start, start + len(line)


def finished(path: Path) -> list[Row]:
    """Every line of a file that `append_row` wrote, whatever it holds; a torn last one is left
    out.
    """
    return (
        [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
    )


def parse_row(
    line: bytes, where: str, remedy: str = "delete that line and run its cell again"
) -> Row:
    """The row that a line holds, whether or not it was changed.

    Args:
        line: The line.
        where: What messages begin with.
        remedy: What they end with: what is to be done about it.

    Raises:
        ResultsError: It holds none, or one of another schema; the message names the field.
    """
    try:
        row = json_of(line)
    except ValueError as error:
        raise ResultsError(f"{where} is not JSON ({error}): {remedy}") from error
    schema = row.get("schema") if isinstance(row, dict) else None
    try:
        if schema in (MIGRATED_SCHEMA, SCHEMA):
            check_cell(row, has_settings=schema == SCHEMA)
        if schema == MIGRATED_SCHEMA:
            return migrated(row)
        if schema == SCHEMA:
            Cell.of(row)
            for field in FIELDS:
                row[field]
            check_form(row)
    except KeyError as error:
        raise ResultsError(f"{where} lacks a field of its schema, {error}: {remedy}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultsError(f"{where} is not as it was written ({error}): {remedy}") from error
    if schema != SCHEMA:
        found = f"schema {schema!r}" if isinstance(row, dict) else f"{json_kind(row)}, no object"
        raise ResultsError(
            f"{where} has {found}, but this version reads schema {SCHEMA} and"
            f" {MIGRATED_SCHEMA}: write to another folder, or use the version of editgym that wrote"
            " it"
        )
    return row


def _cut_torn_line(file: BinaryIO) -> None:
    """End the file at its last line break, or a new row would be glued to half of an old one."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
