"""A reader who does all that a page says: its Python blocks and its commands, in their order."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

PYTHON = ".venv/bin/python"
_FENCED = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


class Followed(NamedTuple):
    """What a page led to: the names that its blocks made, and how many blocks and commands ran."""

    names: dict[str, Any]
    blocks: int
    commands: int


def follow(page: str, folder: Path, monkeypatch) -> Followed:
    """Do what a page says, in the folder that is the working directory.

    A block whose first line names a file is saved under that name. Commands run in this process: to
    start Python and import torch takes longer than all the rest.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    blocks = commands = 0
    for block in _FENCED.finditer(page):
        if block["kind"] == "python":
            if named := _FILE_NAME.match(block["text"]):
                (folder / named[1]).write_text(block["text"], encoding="utf-8")
            # Padded, so that a traceback shows the line of the page.
            above = "\n" * page.count("\n", 0, block.start("text"))
            exec(compile(above + block["text"], "the page", "exec"), names)
            blocks += 1
            continue
        assert block["kind"] == "bash"
        for line in block["text"].replace("\\\n", " ").splitlines():
            if line.strip():
                code = typed(line, monkeypatch)
                assert not code, line
                commands += 1
    return Followed(names, blocks, commands)


def typed(line: str, monkeypatch) -> Any:
    """What a command ends with, `.venv/bin/python -m MODULE ARGUMENTS`, done in this process."""
    python, option, module, *arguments = shlex.split(line)
    assert (python, option) == (PYTHON, "-m"), line
    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", [module, *arguments])
        # The module was imported before, in this process.
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as left:
            return left.code
    return 0
