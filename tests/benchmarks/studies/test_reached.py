"""README's table of what was reached is made from rows: other rows make another one."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.studies.reached import main, table

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.fixture
def results(tmp_path):
    """A copy of what the table is made from."""
    for name in ("worlds", "attacks", "deep", "general", "smollm2", "lifelong"):
        (tmp_path / name).mkdir()
        shutil.copy(RESULTS / name / "results.jsonl", tmp_path / name)
    shutil.copy(RESULTS / "lifelong" / "llama3_8b_h100.json", tmp_path / "lifelong")
    return tmp_path


def changed(file, change):
    """A file of rows with another value in each row that `change` says so of."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        change(row)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_figures_are_those_of_the_rows(results, capsys):
    assert main([str(results)]) == 0
    before = capsys.readouterr().out.splitlines()
    assert before == table(RESULTS).splitlines()

    def other_policy(row):
        if row["agent"] == "gradient editor of 40 networks":
            row["forget"] = 0.25

    changed(results / "general" / "results.jsonl", other_policy)
    costs = results / "lifelong" / "llama3_8b_h100.json"
    slow = json.loads(costs.read_text())
    slow["rledit_edit_step"]["step_s"] = 7.0
    costs.write_text(json.dumps(slow))
    after = table(results).splitlines()
    differing = [line for old, line in zip(before, after, strict=True) if old != line]
    assert len(differing) == 2
    assert "| forget accuracy 25.0%, retain accuracy 1.3 points below before (" in differing[0]
    assert "| 0.18 to 7.00 s ([costs](" in differing[1]


def test_a_line_without_rows_is_an_error_that_names_what_is_missing(results, capsys):
    file = results / "attacks" / "results.jsonl"
    kept = [line for line in file.read_text().splitlines() if json.loads(line)["agent"] != "ppo"]
    file.write_text("".join(f"{line}\n" for line in kept))
    assert main([str(results)]) == 2
    assert "no finished row in" in (said := capsys.readouterr().err)
    assert "attacks has {'agent': 'ppo'}" in said
