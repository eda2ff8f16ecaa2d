"""Writes the SHA-256 of published rows of schema 1: `python -m benchmarks.results.pin_rows FOLDER
[FOLDER ...]`, with the folders that hold them.

Such rows have no hash of their own. It was run on docs/results as it was committed; run again on
these it writes the same file, and on rows that somebody has changed it would vouch for them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.results.migration import PUBLISHED, measured_sha256
from benchmarks.results.pin_settings import rows_of_schema_1
from editgym.paths import whole_file


def pinned_rows(folders: Iterable[Path]) -> list[str]:
    """The SHA-256 of every row of schema 1 in the folders, sorted, each once."""
    return sorted({measured_sha256(row) for row in rows_of_schema_1(folders)})


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results.pin_rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    hashes = pinned_rows(parser.parse_args(arguments).folders)
    with whole_file(PUBLISHED) as partial:
        partial.write_text(f"{json.dumps(hashes, indent=0)}\n", encoding="utf-8")
    print(f"{len(hashes)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
