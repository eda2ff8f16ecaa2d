"""Tables that commands print: `python docs/printed.py` draws them anew in all pages.

A line `<!-- printed by: python -m MODULE ARGUMENTS -->` in a page stands above the Markdown table
that this command prints, in the repository's folder; a command that prints several has a marker
with a number for each after the first, `<!-- printed by (2): … -->`. A test compares pages and
commands.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

DOCS = Path(__file__).resolve().parent
MARKER = re.compile(
    r"^<!-- printed by(?: \((?P<number>\d+)\))?: python -m (?P<command>.+) -->\n"
    r"(?P<table>(?:\|[^\n]*\n)*)",
    re.MULTILINE,
)


@cache
def tables(command: str) -> list[str]:
    """The Markdown tables that a command prints, in its order, each with a line break at its end.

    Args:
        command: A module and its arguments, as they follow `python -m`.

    Raises:
        RuntimeError: The command fails.
    """
    module, *arguments = shlex.split(command)
    before, sys.argv = sys.argv, [module, *arguments]
    printed = io.StringIO()
    code: object = 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.chdir(DOCS.parent):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
    if code:
        raise RuntimeError(f"python -m {command} ended with {code}")
    return re.findall(r"(?:^\|[^\n]*\n)+", printed.getvalue(), re.MULTILINE)


def printed(marker: re.Match[str]) -> str:
    """The table that belongs below a marker."""
    return tables(marker["command"])[int(marker["number"] or 1) - 1]


def drawn(page: str) -> str:
    """A page with all its printed tables drawn anew."""

    def anew(marker: re.Match[str]) -> str:
        line = marker[0].partition("\n")[0]
        return f"{line}\n{printed(marker)}"

    return MARKER.sub(anew, page)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python docs/printed.py", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="pages; all unless given")
    options = parser.parse_args(arguments)
    for page in options.pages or sorted(DOCS.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = drawn(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
