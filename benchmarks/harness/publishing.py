"""The commands that hand results on: `ship`, `merge`, `submit`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.results import SHIPPED_BYTES


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
