"""Text of pages that is made from elsewhere: `python docs/printed.py` draws it anew in all pages.

A line `<!-- printed by: python -m MODULE ARGUMENTS -->` in a page stands above the Markdown table,
or the fenced text, that this command prints, in the repository's folder; a command that prints
several tables has a marker with a number for each after the first, `<!-- printed by (2): … -->`.

Three more markers stand above text that ends at `<!-- end -->`:

- `<!-- from CONTRIBUTING: HEADING -->`: what CONTRIBUTING.md says under that heading,
- `<!-- docstring of: CLASS -->`: the class's docstring as Markdown,
- `<!-- members of: NAME -->`: what a module or class offers, a line for each member.

The text is committed, so that a page can be read where it lies. On the site mkdocstrings shows what
the last two name; lines between the name and `-->` are its options. A test compares the pages with
what they are made from.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import docstrings

DOCS = Path(__file__).resolve().parent
MARKER = re.compile(
    r"^<!-- printed by(?: \((?P<number>\d+)\))?: python -m (?P<command>[^\n]+) -->\n"
    r"(?P<table>```text\n.*?^```\n|(?:\|[^\n]*\n)*)",
    re.MULTILINE | re.DOTALL,
)
INSERTED = re.compile(
    r"^<!-- (?P<kind>from CONTRIBUTING|docstring of|members of): (?P<name>[^\n]+?)"
    r"(?P<options>\n(?: [^\n]*\n)+)?(?(options)| )-->\n(?P<text>.*?)^<!-- end -->$",
    re.MULTILINE | re.DOTALL,
)
_SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
_CHOSEN = re.compile(r"^ +members: \[([^\]]*)\]$", re.MULTILINE)


@cache
def tables(command: str) -> list[str]:
    """The Markdown tables that a command prints, in its order, each with a line break at its end;
    where it prints none, all that it prints, as one fenced text.

    Args:
        command: A module and its arguments, as they follow `python -m`.

    Raises:
        RuntimeError: The command fails.
    """
    module, *arguments = shlex.split(command)
    before, sys.argv = sys.argv, [module, *arguments]
    output = io.StringIO()
    code: object = 0
    try:
        with contextlib.redirect_stdout(output), contextlib.chdir(DOCS.parent):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        code = left.code
    finally:
        sys.argv = before
    if code:
        raise RuntimeError(f"python -m {command} ended with {code}")
    text = output.getvalue()
    return re.findall(r"(?:^\|[^\n]*\n)+", text, re.MULTILINE) or [f"```text\n{text}```\n"]


def printed(marker: re.Match[str]) -> str:
    """The table or text that belongs below a marker."""
    return tables(marker["command"])[int(marker["number"] or 1) - 1]


def inserted(marker: re.Match[str], page: str) -> str:
    """The text that belongs between a marker and its end, with an empty line around it.

    Args:
        marker: A match of `INSERTED`.
        page: The page's path in the docs folder.
    """
    name, kinds = marker["name"], _kinds(marker["options"] or "")
    return f"\n{kinds[marker['kind']](name, page)}\n"


def _kinds(options: str) -> dict[str, Callable[[str, str], str]]:
    chosen = _CHOSEN.search(options)
    names = chosen[1].split(", ") if chosen else []
    return {
        "from CONTRIBUTING": lambda name, page: contributing(name) + "\n",
        "docstring of": docstrings.whole,
        "members of": lambda name, page: docstrings.members(name, page, names),
    }


def contributing(heading: str) -> str:
    """What CONTRIBUTING says under a heading, with its links as they are from a page of the top
    floor.

    Raises:
        KeyError: There is no such heading.
    """
    text = (DOCS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = dict(_SECTION.findall(text))[heading].strip()
    return re.sub(r"\]\(docs/", "](", section)


def drawn(text: str, page: str) -> str:
    """A page with all that is made from elsewhere drawn anew.

    Args:
        text: The page.
        page: Its path in the docs folder.
    """

    def table(marker: re.Match[str]) -> str:
        line = marker[0].partition("\n")[0]
        return f"{line}\n{printed(marker)}"

    def insertion(marker: re.Match[str]) -> str:
        before = marker[0][: marker.start("text") - marker.start()]
        return f"{before}{inserted(marker, page)}<!-- end -->"

    return MARKER.sub(table, INSERTED.sub(insertion, text))


def pages() -> list[Path]:
    """README and all pages of the docs folder."""
    return [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python docs/printed.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pages", nargs="*", type=Path, help="pages; all unless given")
    options = parser.parse_args(arguments)
    for page in options.pages or pages():
        text = page.read_text(encoding="utf-8")
        new = drawn(text, os.path.relpath(page.resolve(), DOCS))
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
