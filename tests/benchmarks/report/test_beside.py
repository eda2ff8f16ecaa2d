"""Every agent beside a chosen one, as the terminal shows it."""

import re

import pytest

from benchmarks import leaderboard
from benchmarks.report.aggregate import group_rows
from benchmarks.report.beside import beside
from benchmarks.results import ROWS_FILE, append_row
from benchmarks.suites.entry import Entry, Labelled


@pytest.fixture
def rows(unlearning_row):
    return [
        unlearning_row(name, seed, retain=retain + seed / 100 + (seed % 2) * wobble, forget=0.0)
        for name, retain, wobble in (("ppo", 0.7, 0), ("cmaes", 0.6, 0.01), ("random", 0.7, 0.03))
        for seed in range(10)
    ]


def test_differences_chances_and_who_is_apart(rows):
    title, head, first, second, _, *reading = beside(group_rows(rows), "pp").split("\n")
    assert title.endswith("unlearning/digits, against ppo")
    assert head.split() == ["agent", "n", "Δ", "score", "P(better)", "apart"]
    assert re.fullmatch(r"random +10 +\+0\.\d+ \[0\.\d+, 0\.\d+\] +0\.\d\d +(yes|no)", first)
    assert re.fullmatch(r"cmaes +10 +-0\.\d+ \[-0\.\d+, -0\.\d+\] +0\.\d\d +yes", second)
    assert "10 seeds on" in " ".join(reading)
    assert all(len(line) <= 100 for line in (title, head, first, second, *reading))


def test_few_seeds_are_described_and_not_tested(rows):
    few = [row for row in rows if row["seed"] < 3]
    _, _, first, *_ = beside(group_rows(few), "ppo").split("\n")
    assert re.fullmatch(r"random +3 +\+0\.\d+ +0\.\d\d +—", first)


def test_the_command_names_agents_that_it_does_not_know(rows, tmp_path, capsys):
    for row in rows:
        append_row(tmp_path / ROWS_FILE, row)
    assert leaderboard.main(["report", str(tmp_path), "--against", "ppo"]) == 0
    assert "against ppo" in capsys.readouterr().out
    assert leaderboard.main(["report", str(tmp_path), "--against", "sac"]) == 2
    error = capsys.readouterr().err
    assert "against: no agent 'sac' has a score; there are cmaes, ppo, random" in error
    assert leaderboard.main(["report", str(tmp_path), "--against", ""]) == 2
    assert "begins the names of 3 agents" in capsys.readouterr().err


def test_an_agent_is_chosen_by_its_short_name_too(rows):
    for row in rows:
        if row["agent"] == "cmaes":
            row |= {"agent": "ppo", "agent_config": {"rank": 8}, "settings": {"rank": 8}}
    entry = Entry("MaskWorld-v0", "unlearning/digits", (Labelled("ppo", "wide", {"rank": 8}),))
    groups = group_rows(rows, lambda suite: (entry,))
    texts = [beside(groups, name) for name in ("ppo (wide)", "ppo (rank=8)")]
    assert texts[0] == texts[1]
    assert texts[0].startswith("MaskWorld-v0 · unlearning/digits, against ppo (wide)")
    assert re.search(r"^ppo +10 +\+0", texts[0], re.MULTILINE)
    assert re.search(r"^ppo \(wide\) +10 +-0", beside(groups, "random"), re.MULTILINE)
