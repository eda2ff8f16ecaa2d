"""The guides on submitting and on scaling out run top to bottom in an empty folder."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.results.disclosure import QUESTIONS

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
_BLOCK = re.compile(
    r"(?P<before>[^\n]*)\n```(?P<language>bash|toml|python)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FILE_NAME = re.compile(r"# ([\w/]+\.(?:py|toml))\n")
NEEDS_RAY, NEEDS_CLUSTER = "<!-- needs Ray -->", "<!-- needs a cluster -->"
_EXIT = re.compile(r"<!-- exits with (\d) -->")


class Block(NamedTuple):
    """What stands above a block of code, and the block."""

    before: str
    language: str
    code: str


def blocks(name):
    page = (GUIDES / name).read_text(encoding="utf-8")
    return [Block(*found.groups()) for found in _BLOCK.finditer(page)]


def run(block, folder):
    """Run a block as a reader would: files are saved under the name in their first line, Python is
    run, and commands are run one after the other."""
    if named := _FILE_NAME.match(block.code):
        (folder / named[1]).write_text(block.code, encoding="utf-8")
        return ""
    here = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ["PATH"]]))
    environment = {
        **os.environ,
        "PATH": here,
        "RAY_AUTH_MODE": "disabled",  # or a cluster leaves a token in the home folder
        "EDITGYM_DATA": str(folder / "no data"),
    }
    command = ["bash", "-ec", block.code] if block.language == "bash" else [sys.executable, "-"]
    typed = None if block.language == "bash" else block.code
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        start_new_session=True,
        **pipes,
    ) as started:
        try:
            printed = "".join(started.communicate(typed))
        except BaseException:  # a test that runs out of time leaves nobody behind
            os.killpg(started.pid, signal.SIGKILL)
            raise
    allowed = _EXIT.fullmatch(block.before.strip())
    assert started.returncode == (int(allowed[1]) if allowed else 0), printed
    return printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_results_are_run_checked_disclosed_packed_and_verified(tmp_path):
    printed = [run(block, tmp_path) for block in blocks("submit.md")]
    assert (tmp_path / "mine.zip").is_file()
    assert (tmp_path / "theirs" / "verified.jsonl").read_text().count("\n") == 2
    assert any("4 of 4 rows checked\n4 of 4 rows reproduced" in text for text in printed)
    assert any("disclosure.toml was missing: a form is there now" in text for text in printed)
    assert any("2 rows marked as verified" in text for text in printed)
    assert "4 rows, 4 of them new: all" in printed[-1]
    board = (tmp_path / "theirs" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert (
        "verified: somebody else ran the cells again and got the same rows: Ada Lovelace" in board
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cells_are_run_in_processes_and_merged_and_on_ray_where_it_is_installed(tmp_path):
    every = blocks("scale_out.md")
    printed = {block.code: run(block, tmp_path) for block in every if not block.before}
    assert any("[(0, 'finished'), (1, 'finished')]" in text for text in printed.values())
    assert any("4 rows, 4 of them new: runs/both" in text for text in printed.values())
    (with_ray,) = [block for block in every if block.before == NEEDS_RAY]
    if importlib.util.find_spec("ray"):
        assert "4 rows, 4 of them new: runs/same" in run(with_ray, tmp_path)
        assert (tmp_path / "runs/same/results.jsonl").read_text().count("\n") == 4


def test_every_block_runs_or_says_what_it_needs():
    submit, scale = blocks("submit.md"), blocks("scale_out.md")
    assert {block.before for block in submit} == {"", "<!-- exits with 2 -->"}
    assert {block.before for block in scale} == {"", NEEDS_RAY, NEEDS_CLUSTER}
    assert len(submit) + len(scale) == 8 + 5


@pytest.mark.parametrize("name", ["submit.md", "scale_out.md"])
def test_a_guide_is_read_in_one_go(name):
    assert (GUIDES / name).read_text(encoding="utf-8").count("\n") < 150


def test_the_form_that_a_submitter_fills_in_is_that_of_the_guide():
    (form,) = [block.code for block in blocks("submit.md") if block.language == "toml"]
    assert list(tomllib.loads(form)) == list(QUESTIONS)
