"""What drawing a leaderboard costs: rows that every version reads, each version by itself."""

import json
from pathlib import Path

import pytest

from benchmarks.costs import report
from benchmarks.costs.versions import packages_of

ROOT = Path(__file__).resolve().parents[3]
WORLDS = ROOT / "docs/results/worlds"


def test_rows_are_the_first_of_a_schema_that_both_read():
    rows = report.rows_of([WORLDS], 5)
    assert rows == WORLDS.joinpath("results.jsonl").read_text().splitlines(keepends=True)[:5]
    both = report.rows_of([WORLDS, ROOT / "docs/results/lifelong"], 1_000)
    assert {json.loads(row)["schema"] for row in both} == {1}
    with pytest.raises(ValueError, match="926 of schema 1 in 1 folders"):
        report.rows_of([WORLDS], 927)
    with pytest.raises(OSError, match="nowhere"):
        report.rows_of([Path("nowhere")], 1)


@pytest.mark.slow
def test_a_report_is_drawn_in_a_process_of_its_own():
    with packages_of(ROOT) as packages:
        cost = report.report_cost(packages, report.rows_of([WORLDS], 20))
        assert cost.cpu_s > 0
        assert cost.wall_s < 120
        with pytest.raises(RuntimeError, match=r"report failed: error: .*is not JSON"):
            report.report_cost(packages, ["no row\n"])


def test_ratios_are_those_of_runs_that_follow_each_other(monkeypatch):
    costs = iter([(40, 20), (2, 2), (90, 30), (3, 1), (10, 8), (1, 2)])
    monkeypatch.setattr(report, "report_cost", lambda *_: report.Cost(*next(costs)))
    found = report.compared(ROOT, ROOT, ["{}\n"], times=3)
    assert found == {
        "rows": 1,
        "before": {"wall_s": 40, "cpu_s": 20},
        "after": {"wall_s": 2, "cpu_s": 2},
        "times_faster": {"wall_s": 20, "cpu_s": 10},
    }


def test_the_command_says_what_is_wrong(capsys, tmp_path):
    file = tmp_path / "found.json"
    command = ["--before", str(tmp_path), "--json", str(file), "--rows", "2", str(WORLDS)]
    assert report.main(command) == 2
    assert "is no source of the package" in capsys.readouterr().err
    assert not file.exists()
