"""Rows that were measured on other networks or data are not compared with the others."""

import pytest

from benchmarks.report.aggregate import group_rows
from benchmarks.report.alike import others

WORLD = "MaskWorld-v0"


def row_of(make_row, agent, seed=0, env_id=WORLD, **fingerprints):
    own = {"model": f"m{seed}", "data": "d", "text": None, "files": {}, **fingerprints}
    metrics = {"retain_accuracy": 0.5, "forget_accuracy": 0.1}
    metrics |= {f"{name}_before": 0.9 for name in metrics}
    return make_row(agent, seed, env_id=env_id, metrics=metrics, measured={"fingerprints": own})


@pytest.mark.parametrize("name", ["model", "data", "text", "files"])
def test_a_row_on_something_else_has_a_table_of_its_own(make_row, name):
    rows = [row_of(make_row, agent, seed) for agent in ("ppo", "cmaes") for seed in range(2)]
    changed = {"files": {"x": "y"}}.get(name, "another")
    rows = [*rows, row_of(make_row, "text", **{"text": "t"}), row_of(make_row, "odd", text="t")]
    assert set(others(rows)) == {""}, "what is not known is no other"
    rows[-1] = row_of(make_row, "odd", **{"text": "t", name: changed})
    assert others(rows) == [*[""] * 5, f" · other {name}"]
    groups = {group.title: group for group in group_rows(rows)}
    plain = f"{WORLD} · unlearning/digits"
    assert set(groups) == {plain, f"{plain} · other {name}"}
    assert [one.agent for one in groups[f"{plain} · other {name}"].standings] == ["odd"]
    assert "odd" not in [one.agent for one in groups[plain].standings]


def test_one_odd_row_takes_nobody_out_of_the_pooled_table(make_row):
    worlds = (WORLD, "ShiftWorld-v0")
    rows = [row_of(make_row, agent, env_id=world) for agent in ("ppo", "cmaes") for world in worlds]
    before, *_ = group_rows(rows)
    after, *_ = group_rows([*rows, row_of(make_row, "odd", data="another")])
    assert before.title == after.title == "All unlearning tasks"
    assert [one.agent for one in before.standings] == [one.agent for one in after.standings]
    assert after.strata == before.strata


def test_the_most_are_the_table_and_each_other_has_its_number(make_row):
    values = ["a", "b", "a", "c", "b", "a"]
    rows = [row_of(make_row, f"agent{i}", data=value) for i, value in enumerate(values)]
    names = {"a": "", "b": " · other data", "c": " · other data (2)"}
    assert others(rows) == [names[value] for value in values]
