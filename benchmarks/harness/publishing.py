"""The commands that make something of rows: `rescore`, `ship`, `merge`, `submit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.report.write import write_report
from benchmarks.results import SHIPPED_BYTES, Cell, rows_in
from benchmarks.suites.cells import entries_of


def rescore(options: argparse.Namespace) -> int:
    """Score journals again with other settings of the evaluation, into another folder."""
    from benchmarks.harness.rescoring import read_settings, rescore_rows
    from benchmarks.harness.validation import named_rows

    rows = rows_in(options.folder)
    chosen = named_rows(rows, options.rows) if options.rows else rows
    measured = options.folder.resolve()
    folder = options.out or measured.with_name(f"{measured.name}-rescored")
    settings = read_settings(options.set)
    found = rescore_rows(chosen, options.folder, folder, settings, options.keep_going)
    for row, problem in found.failed:
        print(f"FAILED  {Cell.of(row)}  {row['cell'][:12]}\n    {problem}", file=sys.stderr)
    print(found)
    if found.added or found.there:
        print(write_report(folder, entries_of).page.resolve())
    return 1 if found.failed else 0


def ship(options: argparse.Namespace) -> int:
    """Copy rows, and the journals that are small enough, to a folder that is published."""
    from benchmarks.harness.shipping import ship_rows

    shipped = ship_rows(options.folder, options.destination)
    print(
        f"{shipped.rows} rows, {shipped.journals} journals up to {SHIPPED_BYTES:,} bytes,"
        f" {shipped.by_hash} by their SHA-256 alone: {options.destination}"
    )
    return 0


def merge(options: argparse.Namespace) -> int:
    """Add the rows of other folders, such as other machines', to those of one."""
    from benchmarks.harness.merging import merge_rows

    merged = merge_rows(options.folders, options.out)
    print(f"{merged.rows} rows, {merged.added} of them new: {options.out}")
    return 0


def submit(options: argparse.Namespace) -> int:
    """Replay all rows, and pack them with journals, records and disclosure into one archive."""
    from benchmarks.harness.submission import submit_rows

    packed = submit_rows(options.folder, options.out)
    print(
        f"{packed.rows} rows, {packed.marked} of them verified by somebody else, in"
        f" {packed.files} files: {options.out}\nSHA-256 {packed.sha256}"
    )
    return 0


def add_publishing(commands: Any) -> None:
    """Add these commands to the leaderboard's.

    Args:
        commands: What `add_subparsers` of its parser returned.
    """
    again = commands.add_parser("rescore", help=rescore.__doc__)
    again.add_argument("folder", metavar="DIR", type=Path)
    again.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="[TASK.]KEY=VALUE",
        help="an argument of the environments, or of those with the task TASK, that decides what is"
        " measured: scorer, evaluate_formats, metrics, …; VALUE is JSON, or text",
    )
    again.add_argument("--rows", metavar="CELL,CELL", type=names, help="only these rows")
    again.add_argument("--out", metavar="TO", type=Path, help="default: DIR-rescored")
    again.add_argument(
        "--keep-going",
        action="store_true",
        help="score the other rows where some cannot be, list these at the end, and exit with 1;"
        " without it nothing is written, and all of them are named (exit code 2). Either way what"
        " shows only when a row is measured fails that row, and the others go on",
    )
    again.set_defaults(command=rescore)
    shipped = commands.add_parser("ship", help=ship.__doc__)
    shipped.add_argument("folder", metavar="DIR", type=Path)
    shipped.add_argument("destination", metavar="TO", type=Path)
    shipped.set_defaults(command=ship)
    merged = commands.add_parser("merge", help=merge.__doc__)
    merged.add_argument("folders", metavar="DIR", type=Path, nargs="+")
    merged.add_argument("--out", metavar="TO", type=Path, required=True, help="where all rows go")
    merged.set_defaults(command=merge)
    packed = commands.add_parser("submit", help=submit.__doc__)
    packed.add_argument("folder", metavar="DIR", type=Path)
    packed.add_argument(
        "--out", metavar="FILE.zip", type=Path, required=True, help="the archive to write"
    )
    packed.set_defaults(command=submit)


def names(text: str) -> list[str]:
    """The names in a comma-separated list, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError(f"expected names with commas between them, got {text!r}")
    return names
