"""What drawing a leaderboard costs in two versions of the package: `python -m
benchmarks.costs.report --before CHECKOUT --json FILE`.

CHECKOUT is the folder of another version's source (`git worktree add CHECKOUT COMMIT`). Both run
`leaderboard report` on the same rows in turn, each time in a process of its own, from the start of
the interpreter to its end, so that a noisy machine is noisy for both. The rows are the first ones
of the folders that are given, of a schema that both versions read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.costs.files import writable, write
from benchmarks.costs.versions import packages_of
from benchmarks.results import ROWS_FILE

_FOLDERS = [Path("docs/results/worlds"), Path("docs/results/lifelong")]
_ROWS = 1_000
_TIMES = 3
_SCHEMA = 1  # of the rows that earlier versions read, too


class Cost(NamedTuple):
    """What one run took.

    Attributes:
        wall_s: Seconds on the clock.
        cpu_s: Seconds of the processor, which a busy machine changes less.
    """

    wall_s: float
    cpu_s: float


def compared(before: Path, after: Path, rows: Sequence[str], times: int = _TIMES) -> dict[str, Any]:
    """Medians of what both versions took, and how many times faster the later one is: the median of
    the ratios of runs that follow each other.

    Args:
        before: Folder of the earlier version's source.
        after: Folder of the later version's.
        rows: Lines of a file of rows.
        times: How often each version draws the rows.

    Raises:
        FileNotFoundError: A folder is no source of the package.
        RuntimeError: A version cannot draw the rows; the message has its last lines.
    """
    with packages_of(before) as old, packages_of(after) as new:
        pairs = [(report_cost(old, rows), report_cost(new, rows)) for _ in range(times)]
    earlier, later = zip(*pairs, strict=True)
    return {
        "rows": len(rows),
        "before": _medians(earlier),
        "after": _medians(later),
        "times_faster": {
            field: statistics.median(
                getattr(one, field) / getattr(other, field) for one, other in pairs
            )
            for field in Cost._fields
        },
    }


def report_cost(packages: Path, rows: Sequence[str]) -> Cost:
    """What `leaderboard report` takes in a process of its own.

    Args:
        packages: Folder that the package is imported from.
        rows: Lines of a file of rows.

    Raises:
        RuntimeError: It fails; the message has its last lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ROWS_FILE).write_text("".join(rows), encoding="utf-8")
        started, used = time.perf_counter(), _cpu_of_children()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.leaderboard", "report", folder],
            env={**os.environ, "PYTHONPATH": str(packages), "OMP_NUM_THREADS": "1"},
            cwd=packages,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"report failed: {done.stderr[-1_000:]}")
        return Cost(time.perf_counter() - started, _cpu_of_children() - used)


def rows_of(folders: Sequence[Path], count: int) -> list[str]:
    """The first lines of the folders' files of rows that any version reads.

    Raises:
        OSError: A folder has no rows.
        ValueError: There are fewer.
    """
    found = [line for folder in folders for line in _lines(folder) if line.strip()]
    old = [line for line in found if json.loads(line).get("schema") == _SCHEMA]
    if len(old) < count:
        raise ValueError(f"rows: {len(old)} of schema {_SCHEMA} in {len(folders)} folders")
    return old[:count]


def _lines(folder: Path) -> Iterator[str]:
    with (folder / ROWS_FILE).open(encoding="utf-8") as file:
        yield from file


def _medians(costs: Sequence[Cost]) -> dict[str, float]:
    return {
        field: statistics.median(getattr(cost, field) for cost in costs) for field in Cost._fields
    }


def _cpu_of_children() -> float:
    """Seconds of the processor that finished child processes have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from benchmarks.costs.hardware import hardware
    from benchmarks.harness.provenance import cpu_model, source_commit

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folders", nargs="*", type=Path, default=_FOLDERS, metavar="FOLDER", help="of rows")
    add("--before", type=Path, required=True, metavar="CHECKOUT")
    add("--rows", type=int, default=_ROWS, metavar="N", help="default: %(default)s")
    add("--times", type=int, default=_TIMES, metavar="N", help="default: %(default)s")
    add("--json", type=writable, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    here = Path(__file__).resolve().parents[2]
    try:
        rows = rows_of(options.folders, options.rows)
        found = compared(options.before.resolve(), here, rows, options.times)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    machine = {**hardware("cpu"), "name": cpu_model(), "cores": os.cpu_count()}
    result = {
        "before_commit": source_commit(options.before.resolve() / "setup.cfg"),
        "hardware": machine,
        **found,
    }
    write(options.json, result)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
