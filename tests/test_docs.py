"""Every Python block and every command of README and docs runs as it stands, in its page's order,
in an empty folder, on a machine without data sets; or the page says why it does not."""

import re
import sys
from pathlib import Path

import pytest
from reader import Block, blocks, commands, follow

from benchmarks.suites.cells import SUITES
from editgym.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted(DOCS.glob("**/*.md")))
}
# Followed by tests of their own, which also look at what a reader sees.
OWN_TESTS = {
    "docs/guides/own_data.md": "test_own_data_page.py",
    "docs/guides/own_texts.md": "test_own_texts_page.py",
    "docs/guides/debias.md": "test_own_texts_page.py",
    "docs/guides/off_the_shelf.md": "interop",  # each library has an environment of its own there
    "docs/guides/own_facts.md": "test_own_facts_page.py",
    "docs/guides/scale_out.md": "test_result_pages.py",
    "docs/guides/submit.md": "test_result_pages.py",
}
# Pages that take more than five seconds of a core.
SLOW = {
    "README.md",
    "docs/agents/editors.md",
    "docs/agents/hypernetworks.md",
    "docs/agents/reinforcement_learning.md",
    "docs/agents/unlearning.md",
    "docs/environments/paper.md",
    "docs/guides/backdoor.md",
    "docs/guides/edit_llm.md",
    "docs/guides/leaderboard.md",
    "docs/guides/own_agent.md",
    "docs/guides/streams.md",
    "docs/guides/tensor_api.md",
    "docs/guides/train.md",
    "docs/index.md",
    "docs/results/forgetting.md",
    "docs/tasks/asking.md",
    "docs/tasks/index.md",
}
REASONS = {
    "downloads",
    "installs and downloads",
    "needs smollm2-135m",
    "some minutes",
    "it makes .venv",
    "half an hour, and it writes over the bundled models",
    "FOLDER stands for a model of yours",
}
FOLLOWED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, text in PAGES.items()
    if name not in OWN_TESTS and any(block.reason is None for block in blocks(text))
]


@pytest.fixture
def working_directory(tmp_path, monkeypatch):
    """A reader's: modules that the page has them save can be imported from it, and are forgotten
    afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EDITGYM_DATA", str(tmp_path / "no data"))
    tasks = dict(TASKS)
    yield tmp_path
    TASKS.clear()
    TASKS.update(tasks)
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def the_class_is_gone(names, folder, printed):
    metrics = names["metrics"]
    assert metrics["forget_accuracy_before"] > 0.9
    assert metrics["forget_accuracy"] <= 0.03
    assert metrics["retain_accuracy"] >= metrics["retain_accuracy_before"] - 0.03
    assert metrics["worst_attack"] > 0.5
    assert "1 of 1 rows reproduced" in printed


def the_trigger_is_gone(names, folder, printed):
    assert "| flipped share ↓ |" in (folder / "runs/backdoor/LEADERBOARD.md").read_text("utf-8")
    assert "2 of 2 rows reproduced" in printed


def the_start_helps(names, folder, printed):
    assert names["info"]["forget_accuracy_before"] > 0.9
    assert names["info"]["forget_accuracy"] <= 0.03


# What a page says that its reader sees, beside that everything runs.
SAID = {
    "docs/index.md": the_class_is_gone,
    "docs/guides/backdoor.md": the_trigger_is_gone,
    "docs/agents/reinforcement_learning.md": the_start_helps,
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_page_is_followed(name, working_directory, monkeypatch, capsys):
    followed = follow(PAGES[name], working_directory, monkeypatch)
    assert followed.blocks + followed.commands > 0
    if name in SAID:
        SAID[name](followed.names, working_directory, capsys.readouterr().out)


def test_what_is_not_run_says_why():
    assert {
        block.reason for text in PAGES.values() for block in blocks(text) if block.reason
    } <= REASONS


def test_version_0_is_made_by_its_id_only_where_it_is_meant():
    """Gymnasium warns of it wherever it is."""
    made = re.compile(r'make(?:_vec)?\(\s*"[^"]*-v0"')
    pages = {
        name
        for name, text in PAGES.items()
        if any(made.search(block.text) for block in blocks(text))
    }
    assert pages == {
        "docs/agents/reinforcement_learning.md",  # the presets are tuned for it
        "docs/environments/index.md",  # says what the warning is
        "docs/environments/paper.md",  # is about it
        "docs/guides/backdoor.md",  # is the tutorial to results of it
        "docs/results/unlearning.md",  # as are these
    }


def test_every_fence_is_code_that_runs_or_says_what_it_is():
    fences = {
        fence
        for text in PAGES.values()
        for fence in re.findall(r"^\s*```(\S*)[^\n]*\n.*?^\s*```$", text, re.DOTALL | re.MULTILINE)
    }
    assert fences <= {"python", "bash", "text", "toml", "json"}


def test_every_command_is_written_alike():
    words = [
        line
        for text in PAGES.values()
        for block in blocks(text)
        if block.kind == "bash"
        for line in commands(block)
    ]
    # `ray` and `cd` stand in the guides on scaling out and on submitting, which are followed whole.
    assert {line[0] for line in words} <= {"python", "pip", "make", "ray", "(cd"}
    assert not [name for name, text in PAGES.items() if ".venv/bin/python -m" in text]


@pytest.mark.slow
def test_the_blocks_that_need_the_fetched_model_run_with_it(
    smollm2, working_directory, monkeypatch, capsys
):
    (working_directory / "docs").mkdir()
    facts = DOCS / "facts.jsonl"
    (working_directory / "docs" / facts.name).write_bytes(facts.read_bytes())
    monkeypatch.setenv("EDITGYM_CACHE", str(Path(smollm2).parents[1]))
    needing = [
        block
        for text in (PAGES["README.md"], PAGES["docs/guides/edit_llm.md"])
        for block in blocks(text)
        if block.reason == "needs smollm2-135m" and block.kind == "python"
    ]
    assert len(needing) == 2
    for block in needing:
        exec(compile(block.text, "the page", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.count("'chat'") == 11
    for adapter in ("runs/facts/adapter", "runs/adapter"):
        assert (working_directory / adapter / "adapter_config.json").is_file()


def test_a_block_that_fails_names_its_line(tmp_path, monkeypatch):
    page = (
        "# Title\n\n```python\nx = 1\n```\n\n<!-- not run: downloads -->\n```python\n1 / 0\n```\n"
        "\n```python\nx += y\n```\n"
    )
    with pytest.raises(NameError) as failure:
        follow(page, tmp_path, monkeypatch)
    assert failure.traceback[-1].lineno + 1 == 13


def test_scripts_of_the_repository_are_commands_too(tmp_path, monkeypatch):
    followed = follow("```bash\npython docs/printed.py --help\n```\n", tmp_path, monkeypatch)
    assert followed.commands == 1
    with pytest.raises(AssertionError, match="nowhere"):
        follow("```bash\npython nowhere.py\n```\n", tmp_path, monkeypatch)


def test_commands_are_read_as_a_shell_reads_them():
    text = "python -m a 'b c' \\\n    --d  # why\n\n# nothing\npython -m e\n"
    block = Block("bash", text, 0, None)
    assert list(commands(block)) == [
        ["python", "-m", "a", "b c", "--d"],
        ["python", "-m", "e"],
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_stands_in_the_table_of_suites(suite):
    lines = PAGES["docs/guides/leaderboard.md"].splitlines()
    (header,) = [place for place, line in enumerate(lines) if line.startswith("| suite | what |")]
    table = lines[header : lines.index("", header)]
    (row,) = [line for line in table if line.startswith(f"| `{suite}` | ")]
    assert row.endswith(f" | {SUITES[suite].seeds} |")
