"""What is printed about false and true calls comes from the leaderboard's own comparisons."""

import pytest

from benchmarks.studies import power


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
