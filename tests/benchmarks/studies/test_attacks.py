"""The table of what attacks reach."""

import pytest

from benchmarks.results import ROWS_FILE, append_row
from benchmarks.studies import attacks
from editgym.metrics.recovery import ATTACKS


def measured(**metrics):
    """Metrics of a row that has been attacked, all shares a half but for what is given."""
    shares = {f"{name}_recovered": 0.5 for name in ATTACKS}
    accuracies = {
        "retain_accuracy": 0.9,
        "forget_accuracy": 0.1,
        "forget_accuracy_before": 0.9,
        "logit_attack_accuracy": 0.75,
    }
    return accuracies | shares | {"worst_attack": 0.5} | metrics


@pytest.fixture
def cells(make_row):
    """Rows of two agents with five seeds each, one older row, and one that failed."""
    rows = [
        make_row(agent=agent, seed=seed, metrics=measured(worst_attack=worst + seed / 100))
        for agent, worst in (("ppo", 0.9), ("scrub", 0.2))
        for seed in range(5)
    ]
    old = {"retain_accuracy": 0.9, "forget_accuracy": 0.0, "forget_accuracy_before": 1.0}
    return [
        *rows,
        make_row(agent="ppo", seed=5, metrics=old),
        make_row(agent="ppo", seed=6, measured={"status": "failed"}),
    ]


def lines(text):
    """A table's cells, without its head."""
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ][2:]


def test_a_line_for_each_agent_with_its_seeds_and_intervals(cells):
    ppo, scrub = lines(attacks.tables(cells))
    assert (ppo[1], ppo[2], scrub[1]) == ("`ppo`", "5", "`scrub`")
    assert ppo[-1] == "0.920 [0.903, 0.937]"
    assert scrub[-1] == "0.220 [0.203, 0.237]"
    assert ppo[5] == "0.750 [0.750, 0.750]"


def test_namesakes_are_told_apart_by_what_differs(make_row):
    rows = [
        make_row(agent="ppo", seed=0, metrics=measured(), env_kwargs={"alpha": 5.0} | more)
        for more in ({}, {"probe_weight": 6.0})
    ]
    assert [line[1] for line in lines(attacks.tables(rows))] == ["`ppo`", "`ppo`, probe_weight=6.0"]


def test_older_rows_are_left_out_and_counted(cells):
    assert attacks.tables(cells).endswith("\n\n1 rows of unlearning have no worst_attack.")
    assert "have no" not in attacks.tables(cells[:10])


def test_a_share_that_some_seeds_lack_says_how_many_have_it(cells):
    cells[0]["metrics"]["mia_signed_recovered"] = None
    ppo, scrub = lines(attacks.tables(cells))
    assert (ppo[-2], scrub[-2]) == ("0.500 (4)", "0.500 [0.500, 0.500]")
    for row in cells[:5]:
        row["metrics"]["mia_signed_recovered"] = None
    assert lines(attacks.tables(cells))[0][-2] == "—"


def test_what_is_not_alike_has_a_line_of_its_own(cells):
    cells[1]["env_kwargs"] = cells[1]["env_kwargs"] | {"sites": ["fc1"]}
    assert [line[1:3] for line in lines(attacks.tables(cells))] == [
        ["`ppo`", "4"],
        ['`ppo`, sites=["fc1"]', "1"],
        ["`scrub`", "5"],
    ]


def test_backdoors_have_a_table_of_their_own(cells, make_row):
    found = {
        "clean_accuracy": 0.9,
        "clean_accuracy_before": 0.95,
        "attack_success_rate": 0.05,
        "attack_success_rate_before": 1.0,
        "triggered_accuracy": 0.6,
        "triggered_accuracy_before": 0.0,
    }
    text = attacks.tables([*cells, make_row(agent="cmaes", metrics=found)])
    assert lines(text.split("\n\n")[-1])[0][2:] == [
        "1",
        "0.950",
        "0.900",
        "0.600",
        "1.000",
        "0.050",
    ]


def test_nothing_to_show_is_an_error(cells, tmp_path, capsys):
    append_row(tmp_path / ROWS_FILE, cells[10])
    assert attacks.main([str(tmp_path)]) == 2
    assert "no finished row has attacks" in capsys.readouterr().err
    append_row(tmp_path / ROWS_FILE, cells[0])
    assert attacks.main([str(tmp_path)]) == 0
    assert "`ppo`" in capsys.readouterr().out
