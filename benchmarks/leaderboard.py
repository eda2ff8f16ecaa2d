"""Command line of the leaderboard: `run` a suite, redraw its `report`, `validate` its journals.

Exit codes: 0 all is well; 1 a cell failed, or a row is not reproduced; 2 the command cannot be
carried out; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.write import write_report
from benchmarks.results import ROWS_FILE, Cell, read_rows
from benchmarks.suites.cells import SUITES, cells, find_suite


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except KeyboardInterrupt:
        print(
            "interrupted: what was finished is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Run a suite, or the rest of it, and print its leaderboard."""
    # Imported here: they load PyTorch, which a mistyped option or `report` should not wait for.
    from agents.catalogue import agent_class
    from benchmarks.harness.runner import Execution, run_cells
    from editgym.tasks.catalogue import checked_device

    suite = find_suite(options.suite)
    chosen = cells(
        suite,
        tasks=options.tasks,
        agents=options.agents,
        seeds=options.seeds,
        device=options.device,
    )
    for agent in dict.fromkeys(cell.agent for cell in chosen):
        agent_class(agent)
    if not options.ray:  # a cluster's nodes have devices of their own
        checked_device(options.device)
    execution = Execution(options.jobs, options.ray, options.gpus_per_cell)
    execution.check()
    folder: Path = options.out or Path("runs") / suite.name
    _check_writable(folder)
    rows = run_cells(chosen, folder, execution)
    report = write_report(folder)
    print(f"{report.markdown}\n{report.page.resolve()}")
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        print(
            f"{failed} of {len(rows)} cells failed: see the end of {folder / 'LEADERBOARD.md'}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def report(options: argparse.Namespace) -> int:
    """Redraw everything from the rows."""
    print(write_report(options.folder).page.resolve())
    return 0


def validate(options: argparse.Namespace) -> int:
    """Replay some journals and say which rows are not reproduced."""
    from benchmarks.harness.validation import sample_rows, validate_row

    rows = sample_rows(read_rows(options.folder / ROWS_FILE), options.sample)
    differ = 0
    for row in rows:
        problems = validate_row(row, options.folder).problems
        differ += bool(problems)
        print(f"{'DIFFERS' if problems else 'ok'}  {Cell.of(row)}  {row['cell'][:12]}")
        for problem in problems:
            print(f"    {problem}")
    print(f"{len(rows) - differ} of {len(rows)} rows reproduced")
    return 1 if differ else 0


def _check_writable(folder: Path) -> None:
    """Raise `OSError` before hours of work, not after."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaderboard", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(required=True, metavar="run | report | validate")
    _add_run(commands.add_parser("run", help=run.__doc__))
    redraw = commands.add_parser("report", help=report.__doc__)
    redraw.add_argument("folder", metavar="DIR", type=Path)
    redraw.set_defaults(command=report)
    replay = commands.add_parser("validate", help=validate.__doc__)
    replay.add_argument("folder", metavar="DIR", type=Path)
    replay.add_argument(
        "--sample", metavar="K", type=int, default=5, help="number of rows (default 5)"
    )
    replay.set_defaults(command=validate)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--suite", required=True, help=" | ".join(SUITES))
    add("--tasks", type=_names, metavar="A,B", help="only these tasks of the suite")
    add(
        "--agents",
        type=_names,
        metavar="A,B",
        help="these agents; package.module:Class for your own",
    )
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="seeds 0 … N-1, up to the most that an entry of the suite allows",
    )
    machines = parser.add_mutually_exclusive_group()
    machines.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes on this machine (default 1)"
    )
    machines.add_argument(
        "--ray", metavar="ADDRESS", help="hand the cells to a Ray cluster: auto, local, ray://…"
    )
    add(
        "--gpus-per-cell",
        type=float,
        default=0.0,
        metavar="X",
        help="share of a GPU that Ray reserves for a cell",
    )
    add("--out", type=Path, metavar="DIR", help="where the results go (default runs/SUITE)")
    add("--device", default="cpu", help="PyTorch device of the networks (default cpu)")
    parser.set_defaults(command=run)


def _names(text: str) -> list[str]:
    """The names in a comma-separated list, each once."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError(f"expected names with commas between them, got {text!r}")
    return names


if __name__ == "__main__":
    sys.exit(main())
