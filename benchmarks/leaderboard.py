"""Command line of the leaderboard: `run` a suite, redraw its `report`, `validate` its journals or
`rescore` them, `ship` rows with the journals that are small enough to be published, `merge` those
of several machines, and `submit` them in one archive.

Exit codes: 0 all is well; 1 a cell failed, a row is not reproduced, or a mark does not hold; 2 the
command cannot be carried out; 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.checking import add_validate
from benchmarks.harness.publishing import add_publishing, names
from benchmarks.harness.strangers import find_modules_in
from benchmarks.report.beside import beside
from benchmarks.report.write import write_report
from benchmarks.results.lines import printable
from benchmarks.suites.cells import SUITES, cells, entries_of, find_suite


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # of any encoding: arrows and dashes are no error
            stream.reconfigure(errors="backslashreplace")
    find_modules_in([os.getcwd()])  # parts by import path, also for the installed command
    try:
        return int(options.command(options))
    except KeyboardInterrupt:
        print(
            "interrupted: what was finished is kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Run a suite, or the rest of it, and print its leaderboard."""
    from benchmarks.harness.processes import prepare
    from benchmarks.suites.given import read_given, read_tuned

    suite, tuned = find_suite(options.suite), read_tuned(options.settings)
    if not options.ray:
        prepare()  # its processes import what they need while this one does
    # Imported here: they load PyTorch, which a mistyped option or `report` should not wait for.
    from benchmarks.harness.asking import check_agent, settings_of, waiting_at_most
    from benchmarks.harness.runner import Execution, run_cells
    from benchmarks.harness.tuned import check_tuned
    from editgym.tasks.catalogue import checked_device

    execution = Execution(options.jobs, options.ray, options.gpus_per_cell, options.time_limit)
    execution.check()
    with waiting_at_most(options.time_limit):
        chosen = cells(
            suite,
            tasks=options.tasks,
            env_ids=options.envs,
            agents=options.agents,
            given=read_given(options.settings, options.set),
            opened={one.agent: one.env_kwargs for one in tuned},
            seeds=options.seeds,
            device=options.device,
            settings_of=settings_of,
        )
        for agent in dict.fromkeys(cell.agent for cell in chosen):
            check_agent(agent)
        check_tuned(tuned, chosen)
        if not options.ray:  # a cluster's nodes have devices of their own
            checked_device(options.device)
        folder: Path = options.out or Path("runs") / suite.name
        _check_writable(folder)
        rows = run_cells(chosen, folder, execution)
    report = write_report(folder, entries_of)
    print(f"{report.brief}\n\n{report.page.resolve()}")
    _print_refused(report.refused)
    failed = sum(row["status"] == "failed" or row["cell"] in report.failures for row in rows)
    if failed:
        print(
            f"{failed} of {len(rows)} cells failed: see the end of {folder / 'LEADERBOARD.md'}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def report(options: argparse.Namespace) -> int:
    """Redraw everything from the rows; print it in short, or every agent beside a chosen one."""
    drawn = write_report(options.folder, entries_of)
    short = drawn.brief if options.against is None else beside(drawn.groups, options.against)
    print(f"{short}\n\n{drawn.page.resolve()}")
    _print_refused(drawn.refused)
    return 1 if drawn.refused else 0


def _print_refused(marks: Sequence[str]) -> None:
    for problem in marks:
        print(f"mark of verification refused: {printable(problem)}", file=sys.stderr)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to before hours of work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out: cannot write to {folder}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaderboard",
        description=" ".join(__doc__.split("\n\n")[0].split()),
    )
    commands = parser.add_subparsers(
        required=True, metavar="run | report | validate | rescore | ship | merge | submit"
    )
    _add_run(commands.add_parser("run", help=run.__doc__))
    redraw = commands.add_parser("report", help=report.__doc__)
    redraw.add_argument("folder", metavar="DIR", type=Path)
    redraw.add_argument(
        "--against", metavar="AGENT", help="print every agent beside this one, by the score"
    )
    redraw.set_defaults(command=report)
    add_validate(commands)
    add_publishing(commands)
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--suite",
        required=True,
        help=f"{' | '.join(SUITES)}; package.module:SUITE for your own",
    )
    add(
        "--tasks",
        type=names,
        metavar="A,B",
        help="only these tasks; one that the suite does not have, such as unlearning/custom, takes"
        " the place of those of its family",
    )
    add("--envs", type=names, metavar="A,B", help="only these environments of the suite")
    add(
        "--agents",
        type=names,
        metavar="A,B",
        help="these agents; package.module:Class for your own",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME.KEY=VALUE",
        help="a setting of the agent NAME, or an argument of the environments with the task NAME;"
        " VALUE is JSON, or text",
    )
    add(
        "--settings",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="what agents.tune found; or the same as --set, as JSON: {NAME: {KEY: VALUE}}",
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
        help="share of a GPU that Ray reserves for a cell; only with --ray",
    )
    add(
        "--time-limit",
        type=float,
        default=86_400.0,
        metavar="SECONDS",
        help="a cell that takes longer has failed (default 86400, a day)",
    )
    add("--out", type=Path, metavar="DIR", help="where the results go (default runs/SUITE)")
    add("--device", default="cpu", help="PyTorch device of the networks (default cpu)")
    parser.set_defaults(command=run)


if __name__ == "__main__":
    sys.exit(main())
