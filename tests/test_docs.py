"""Every Python block of README and docs runs as it stands, one page after the other, on a machine
without data sets."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.suites.cells import SUITES
from editgym.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NOT_RUN = "<!-- not run -->"
NEEDS_MODEL = "<!-- needs smollm2-135m -->"
_BLOCK = re.compile(r"(?P<before>[^\n]*)\n```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


class Block(NamedTuple):
    """Python code of a page, and the number of lines above it."""

    code: str
    lines_above: int
    runs: bool


def blocks(page: str) -> list[Block]:
    return [
        Block(
            found["code"],
            page.count("\n", 0, found.start("code")),
            found["before"].strip() not in (NOT_RUN, NEEDS_MODEL),
        )
        for found in _BLOCK.finditer("\n" + page)
    ]


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    """A reader's: modules that the page has them save can be imported from it, and are forgotten
    afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tasks = dict(TASKS)
    yield tmp_path
    TASKS.clear()
    TASKS.update(tasks)
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def run(page: Path, folder: Path) -> int:
    """Run the blocks of a page in one namespace, and say how many ran.

    A block whose first line names a file is saved under that name.
    """
    runnable = [block for block in blocks(page.read_text(encoding="utf-8")) if block.runs]
    for block in runnable:
        if named := _FILE_NAME.match(block.code):
            (folder / named[1]).write_text(block.code, encoding="utf-8")
    importlib.invalidate_caches()
    namespace = {"__name__": "__main__"}
    for block in runnable:
        # Padded, so that a traceback shows the line of the page.
        padding = "\n" * block.lines_above
        exec(compile(padding + block.code, str(page), "exec"), namespace)
    return len(runnable)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run(page, working_directory, monkeypatch):
    monkeypatch.setenv("EDITGYM_DATA", str(working_directory / "no data"))
    assert run(page, working_directory) > 0


@pytest.mark.parametrize(
    ("page", "least"),
    [
        ("README.md", 3),
        ("docs/worlds.md", 12),
        ("docs/lifelong.md", 9),
        ("docs/backdoor.md", 6),
    ],
)
def test_blocks_are_found(page, least):
    assert sum(block.runs for block in blocks((ROOT / page).read_text(encoding="utf-8"))) >= least


def test_only_blocks_that_need_what_is_not_here_are_left_out():
    left_out = [
        block.code
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8"))
        if not block.runs
    ]
    reasons = ('task="unlearning/custom"', 'model="smollm2-135m"', "lambada_openai")
    assert len(left_out) == len(reasons)
    assert all(any(reason in code for code in left_out) for reason in reasons)


@pytest.mark.slow
def test_the_blocks_that_need_the_fetched_model_run_with_it(
    smollm2, working_directory, monkeypatch, capsys
):
    (working_directory / "docs").mkdir()
    facts = ROOT / "docs" / "facts.jsonl"
    (working_directory / "docs" / facts.name).write_bytes(facts.read_bytes())
    monkeypatch.setenv("EDITGYM_CACHE", str(Path(smollm2).parents[1]))
    found = re.findall(rf"{NEEDS_MODEL}\n```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found
    for code in found:
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.count("'chat'") == 10
    assert (working_directory / "runs/facts/adapter/adapter_config.json").is_file()


def test_a_block_that_fails_names_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```python\nx = 1\n```\n\n<!-- not run -->\n```python\n1 / 0\n```\n"
        "\n```python\nx += y\n```\n"
    )
    with pytest.raises(NameError) as failure:
        run(page, tmp_path)
    assert failure.traceback[-1].lineno + 1 == 13


@pytest.mark.slow
def test_the_commands_of_the_tutorial_run_in_the_readers_folder(working_directory, monkeypatch):
    monkeypatch.setenv("EDITGYM_DATA", str(working_directory / "no data"))
    page = (ROOT / "docs" / "backdoor.md").read_text(encoding="utf-8")
    for block in blocks(page):
        if named := _FILE_NAME.match(block.code):
            (working_directory / named[1]).write_text(block.code, encoding="utf-8")
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    for command in commands.splitlines():
        words = command.split()
        assert words.pop(0) == "python"
        done = subprocess.run(
            [sys.executable, *words], cwd=working_directory, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    table = (working_directory / "runs" / "backdoor" / "LEADERBOARD.md").read_text("utf-8")
    assert "| flipped share ↓ |" in table
    assert "2 of 2 rows reproduced" in done.stdout


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_stands_in_the_table_of_suites(suite):
    lines = (ROOT / "docs" / "worlds.md").read_text(encoding="utf-8").splitlines()
    (header,) = [place for place, line in enumerate(lines) if line.startswith("| suite | what |")]
    table = lines[header : lines.index("", header)]
    (row,) = [line for line in table if line.startswith(f"| `{suite}` | ")]
    assert row.endswith(f" | {SUITES[suite].seeds} |")
