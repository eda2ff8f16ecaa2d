"""Files of costs: a command writes what it measured by `--json FILE`, and prints it again by
`--show FILE`, without measuring anything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from editgym.paths import whole_file

Costs = dict[str, Any]


def add_files(parser: argparse.ArgumentParser) -> None:
    """Give a command line its `--json` and `--show`, of which one must be given."""
    file = parser.add_mutually_exclusive_group(required=True)
    file.add_argument("--json", type=writable, metavar="FILE", help="write what is measured here")
    file.add_argument("--show", type=Path, metavar="FILE", help="only print what FILE holds")


def tens(text: str) -> int:
    """The number that a text says, of edits in steps of ten.

    Raises:
        argparse.ArgumentTypeError: It is no multiple of 10, or not greater than 0.
    """
    value = int(text)
    if value < 10 or value % 10:
        raise argparse.ArgumentTypeError(
            f"expected 10 or a multiple of it, for steps have ten edits; got {text}"
        )
    return value


def write(file: Path, costs: Mapping[str, Any]) -> None:
    """Write what was measured, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    with whole_file(file) as partial:
        partial.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")


def writable(text: str) -> Path:
    """The file that a text names, which is written once all is measured.

    Raises:
        argparse.ArgumentTypeError: It could not be.
    """
    file = Path(text)
    folder = next(one for one in file.absolute().parents if one.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to {file}: give a file in your own folder")
    return file


def show(file: Path, table: Callable[[Costs], str]) -> int:
    """Print what a file of costs holds; returns the exit code.

    Args:
        file: What `--json` wrote.
        table: Makes text of its content.
    """
    try:
        print(table(json.loads(file.read_text(encoding="utf-8"))))
    except KeyError as missing:
        print(f"error: --show: {file} has no {missing}, as this command writes it", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"error: --show: {file}: {error}", file=sys.stderr)
        return 2
    return 0


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is words and whose others are numbers."""
    rule = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def beside(words: str, found: Mapping[str, float], ours: str, bare: str) -> list[str]:
    """A line of a table: what was timed, its seconds, those of what it is beside, and the ratio.

    Args:
        words: What was timed.
        found: The timings.
        ours: The key of its seconds.
        bare: The key of the seconds of what it is beside.
    """
    return [words, f"{found[ours]:,.3g}", f"{found[bare]:,.3g}", f"{found['ratio']:.2f}"]
