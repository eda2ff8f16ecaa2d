"""A reader who does all that a page says: its Python blocks and its commands, in their order."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "python"
_FENCED = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>python|bash)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


class Block(NamedTuple):
    """A block of a page: `python` or `bash`, its text, the number of lines above it, and why it is
    not run, where it is not."""

    kind: str
    text: str
    lines_above: int
    reason: str | None


class Followed(NamedTuple):
    """What a page led to: the names that its blocks made, and how many blocks and commands ran."""

    names: dict[str, Any]
    blocks: int
    commands: int


def blocks(page: str) -> list[Block]:
    """The Python blocks and the commands of a page."""
    return [
        Block(
            found["kind"], found["text"], page.count("\n", 0, found.start("text")), found["reason"]
        )
        for found in _FENCED.finditer(page)
    ]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a `bash` block, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def follow(page: str, folder: Path, monkeypatch, names: dict[str, Any] | None = None) -> Followed:
    """Do what a page says, in the folder that is the working directory.

    A block whose first line names a file is saved under that name. Commands run in this process: to
    start Python and import torch takes longer than all the rest. `names` are what an earlier page
    has made, where this one goes on from it.
    """
    names = {"__name__": "__main__"} if names is None else names
    done = typed_in = 0
    for block in blocks(page):
        if block.reason is not None:
            continue
        if block.kind == "python":
            if named := _FILE_NAME.match(block.text):
                (folder / named[1]).write_text(block.text, encoding="utf-8")
            # Padded, so that a traceback shows the line of the page.
            code = "\n" * block.lines_above + block.text
            exec(compile(code, "the page", "exec"), names)
            done += 1
            continue
        for words in commands(block):
            left = typed(words, monkeypatch)
            assert not left, shlex.join(words)
            typed_in += 1
    return Followed(names, done, typed_in)


def typed(words: list[str], monkeypatch) -> Any:
    """What a command ends with, done in this process: `python -m MODULE ARGUMENTS`, or
    `python FOLDER/FILE.py ARGUMENTS` with a file of the repository."""
    python, *typed_behind = words
    is_module = typed_behind[0] == "-m"
    name, *arguments = typed_behind[is_module:]
    assert python == PYTHON, shlex.join(words)
    assert is_module or (ROOT / name).is_file(), shlex.join(words)
    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", [name, *arguments])
        # The module was imported before, in this process.
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        try:
            if is_module:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            else:
                patch.syspath_prepend((ROOT / name).parent)
                runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as left:
            return left.code
    return 0
