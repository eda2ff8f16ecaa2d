"""The command `validate`: which rows are replayed or run again, and what came of it."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.publishing import names
from benchmarks.results import (
    ROWS_FILE,
    SHIPPED_BYTES,
    Cell,
    Row,
    is_elsewhere,
    no_rows,
    read_what_can_be,
    row_problem,
)
from benchmarks.results.lines import printable
from benchmarks.results.marks import MARKS_FILE, Mark, add_marks, check_verifier, read_marks


@dataclass
class _Checked:
    """What came of the rows that were checked.

    Attributes:
        differ: Cells of rows that are not reproduced.
        marked: How many rows were marked as verified.
    """

    differ: set[str] = field(default_factory=set)
    marked: int = 0


class _Draw(NamedTuple):
    """The rows that are looked at.

    Attributes:
        rows: The rows that are replayed.
        again: The ones of them that are run again.
        how: How the first were drawn, in words; empty where they were not.
        how_again: The same of the second.
    """

    rows: list[Row]
    again: list[Row]
    how: str
    how_again: str


def validate(options: argparse.Namespace) -> int:
    """Replay journals of some rows, or of all, and say which are not reproduced, and which of all
    rows were changed.
    """
    _check_options(options)
    every, damaged = read_what_can_be(options.folder / ROWS_FILE)
    if not every and not damaged:
        raise FileNotFoundError(no_rows(options.folder))
    refused = read_marks(options.folder, every).refused
    draw = _draw(every, options)
    if draw.how:
        print(f"to be replayed{draw.how}: {_cells(draw.rows)}")
    if draw.again:
        print(f"to be run again{draw.how_again}: {_cells(draw.again)}", flush=True)
    checked = _check(draw.rows, draw.again, options)
    changed = _print_changed(every, draw.rows) + len(damaged)
    for problem in (*damaged, *(f"mark of verification, {problem}" for problem in refused)):
        print(f"DIFFERS  {printable(problem, kept='')}")
    lines = len(every) + len(damaged)
    run_again = f"; {len(draw.again)} run again{draw.how_again}" if draw.again else ""
    print(f"{len(draw.rows)} of {lines} rows checked{draw.how}{run_again}")
    print(f"{len(draw.rows) - len(checked.differ)} of {len(draw.rows)} rows reproduced")
    if changed:
        print(f"{changed} of {lines} rows were changed, beside those that were replayed")
    if checked.marked:
        print(f"{checked.marked} rows marked as verified: {options.folder / MARKS_FILE}")
    if not draw.again:
        print("(agent, access, seed, reward calls and times as the rows say: --rerun K tells)")
    return 1 if checked.differ or changed or refused else 0


def _draw(every: Sequence[Row], options: argparse.Namespace) -> _Draw:
    """The rows that the options ask for; says how many cannot be replayed."""
    from benchmarks.harness.validation import finished_rows, named_rows, sample_rows

    here = [
        row
        for row in every
        if row_problem(row) is not None or not is_elsewhere(row, options.folder)
    ]
    if len(here) < len(every):
        print(
            f"not replayed: {len(every) - len(here)} of {len(every)} rows, whose journals are above"
            f" {SHIPPED_BYTES:,} bytes and not here (lost, or published by their SHA-256 alone)"
        )
        if not any(row.get("status") == "finished" for row in here):
            raise ValueError(
                "no finished row is left to be replayed: put their journals into"
                f" {options.folder / 'edits'}, or run their cells again and compare"
            )
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    if options.rows:
        rows = named_rows(every, options.rows)
    else:
        rows = finished_rows(here) if options.all else sample_rows(here, options.sample, seed)
    again = sample_rows(rows, options.rerun, seed) if options.rerun else []
    by_seed = f", drawn by --seed {seed}"
    return _Draw(
        rows,
        again,
        "" if options.rows or options.all else by_seed,
        by_seed if len(again) < len(rows) else "",
    )


def _print_changed(every: Sequence[Row], replayed: Sequence[Row]) -> int:
    """Name the rows that were changed, of those that are not replayed; how many there are."""
    seen = {row["cell"] for row in replayed}
    others = [(row, row_problem(row)) for row in every if row["cell"] not in seen]
    changed = [(row, problem) for row, problem in others if problem is not None]
    for row, problem in changed:
        _print_verdict(row, [problem])
    return len(changed)


def add_validate(commands: Any) -> None:
    """Add the command to the leaderboard's.

    Args:
        commands: What `add_subparsers` of its parser returned.
    """
    replay = commands.add_parser("validate", help=validate.__doc__)
    replay.add_argument("folder", metavar="DIR", type=Path)
    which = replay.add_mutually_exclusive_group()
    which.add_argument(
        "--sample", metavar="K", type=int, default=5, help="number of rows to draw (default 5)"
    )
    which.add_argument("--all", action="store_true", help="every finished row")
    which.add_argument(
        "--rows", metavar="CELL,CELL", type=names, help="these rows, by the beginnings of cells"
    )
    replay.add_argument(
        "--seed", metavar="N", type=int, help="of the draws (default: a random one, printed)"
    )
    replay.add_argument(
        "--rerun",
        metavar="K",
        type=int,
        default=0,
        help="of these rows, how many are learned and edited again by the code that is here, and"
        " compared; of a row that was scored again the row that its edit is of is run again, and"
        " what comes of it is evaluated with the row's settings (default 0)",
    )
    replay.add_argument(
        "--verifier",
        metavar="WHO",
        help="mark the rows that are reproduced by --rerun as verified by you: a name, and how to"
        " ask, 'Ada Lovelace <ada@example.org>'; not for the submitter of the rows",
    )
    replay.set_defaults(command=validate)


def _check_options(options: argparse.Namespace) -> None:
    for name in ("rerun", "seed"):
        if (number := getattr(options, name)) is not None and number < 0:
            raise ValueError(f"{name} must be 0 or more, got {number}")
    if options.sample < 1:
        raise ValueError(f"sample must be 1 or more, got {options.sample}")
    if options.verifier is not None:
        if not options.rerun:
            raise ValueError("verifier: only rows that were run again are marked: give --rerun K")
        check_verifier(options.folder, options.verifier)


def _check(rows: Sequence[Row], again: Sequence[Row], options: argparse.Namespace) -> _Checked:
    """Replay the rows, run some again, mark those that a verifier has reproduced, and print each
    as soon as it is known.
    """
    from benchmarks.harness.again import rerun_row, told_of_replay
    from benchmarks.harness.validation import validate_row

    checked = _Checked()
    chosen = {row["cell"] for row in again}
    for row in rows:
        verdict = validate_row(row, options.folder)
        problems, said = verdict.problems, told_of_replay(row)
        if row["cell"] in chosen:
            verdict = rerun_row(row)
            problems, said = problems + verdict.problems, verdict.said
        if problems:
            checked.differ.add(row["cell"])
        elif verdict.rerun is not None and options.verifier is not None:
            add_marks(options.folder, [Mark.of(row, verdict.rerun, options.verifier)])
            checked.marked += 1
        _print_verdict(row, problems, said)
    return checked


def _cells(rows: Sequence[Row]) -> str:
    return ", ".join(row["cell"][:12] for row in rows)


def _print_verdict(row: Row, problems: Sequence[str], said: Sequence[str] = ()) -> None:
    print(f"{'DIFFERS' if problems else 'ok'}  {Cell.of(row)}  {row['cell'][:12]}", flush=True)
    for line in (*said, *problems):  # they quote the row, which may say anything
        print(f"    {printable(line, kept='')}", flush=True)
