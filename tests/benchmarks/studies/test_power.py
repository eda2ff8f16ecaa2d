"""What is printed about false and true calls comes from the leaderboard's own comparisons."""

from pathlib import Path

import pytest

from benchmarks.report.comparisons import RANKED_FROM
from benchmarks.studies import power

DOCS = Path(__file__).parents[3] / "docs"


def test_the_table_has_a_line_for_every_number_of_seeds(capsys):
    assert power.main(["--tables", "2"]) == 0
    head, _, five, ten, twenty = capsys.readouterr().out.strip().split("\n")
    assert head.count("|") == 7
    assert five.startswith("| 5 | — | — | — | — | ")
    assert ten.startswith("| 10 | 0.0% | 0.0% |")
    assert twenty.startswith("| 20 | ")


def test_a_lead_is_found_more_often_than_none(monkeypatch):
    monkeypatch.setattr(power, "AGENTS", 3)
    found = power.rates(20, 30)
    assert found["found_beside"] > 0.5 > found["false_beside"]
    assert found["named"] >= found["found_beside"]


def test_bad_numbers_are_refused(capsys):
    with pytest.raises(SystemExit):
        power.main(["--tables", "0"])
    assert "--tables must be 1 or more, got 0" in capsys.readouterr().err


def test_the_docs_print_what_is_found_and_falsely_called_at_every_number_of_seeds():
    pages = [page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))]
    (table,) = [page.split("<!-- power -->\n")[1] for page in pages if "<!-- power -->" in page]
    head, _, *lines = table.split("\n\n")[0].split("\n")
    assert head == power.table(1).split("\n")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert [int(row[0]) for row in rows] == list(power.SEEDS)
    for seeds, *shares in rows:
        if int(seeds) < RANKED_FROM:
            assert shares[:4] == ["—"] * 4
            assert shares[4].endswith("%")
            continue
        false_rank, false_beside, _, beside, _ = (float(share.rstrip("%")) for share in shares)
        assert max(false_rank, false_beside) <= 6
        assert beside >= 35 or int(seeds) < 20
