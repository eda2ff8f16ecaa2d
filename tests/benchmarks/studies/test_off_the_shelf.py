"""Agents as their libraries have them: runs, rows and the table of rows."""

import json

import pytest

from benchmarks.studies import off_the_shelf
from benchmarks.studies.off_the_shelf import METRICS, held, main, read, run, table


def row(agent="A", world="MaskWorld-v1", seed=0, forget=0.0, retain=0.95, calls=2_048):
    """A row of a run whose network had a forget accuracy of 1 and a retain accuracy of 0.97."""
    return {
        "world": world,
        "agent": agent,
        "reward_calls": calls,
        "seed": seed,
        "seconds": 10.0 + seed,
        "forget_accuracy": forget,
        "forget_accuracy_before": 1.0,
        "retain_accuracy": retain,
        "retain_accuracy_before": 0.97,
    }


@pytest.mark.parametrize(
    ("forget", "retain", "holds"),
    [(0.05, 0.95, True), (0.06, 0.97, False), (0.0, 0.9401, True), (0.0, 0.9399, False)],
)
def test_an_edit_holds_that_forgets_and_keeps(forget, retain, holds):
    assert held(row(forget=forget, retain=retain)) is holds


def test_table_has_a_line_for_every_world_and_agent_with_seeds_in_order():
    rows = [
        row("B", "ShiftWorld-v1"),
        row(seed=1, forget=0.5),
        row("B"),
        row(seed=0, retain=0.96),
        row(seed=0, calls=512),
    ]
    assert table(rows).splitlines() == [
        "| world | agent | reward calls | n | forget | retain | held | seconds |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
        "| MaskWorld-v1 | B | 2,048 | 1 | 100.0 → 0.0 | 97.0 → 95.0 | 1/1 | 10 |",
        "| MaskWorld-v1 | A | 2,048 | 2 | 100.0 → 0.0, 50.0 | 97.0 → 96.0, 95.0 | 1/2 | 10 |",
        "| MaskWorld-v1 | A | 512 | 1 | 100.0 → 0.0 | 97.0 → 95.0 | 1/1 | 10 |",
        "| ShiftWorld-v1 | B | 2,048 | 1 | 100.0 → 0.0 | 97.0 → 95.0 | 1/1 | 10 |",
    ]


def test_runs_that_edit_other_networks_have_a_line_of_their_own():
    rows = [row(), row() | {"env_kwargs": {}, "seed": 1}]
    rows += [row(seed=seed, forget=0.2) | {"env_kwargs": {"model_seed": seed}} for seed in (0, 1)]
    assert table(rows).splitlines()[2:] == [
        "| MaskWorld-v1 | A | 2,048 | 2 | 100.0 → 0.0, 0.0 | 97.0 → 95.0, 95.0 | 2/2 | 10 |",
        "| MaskWorld-v1 | A, other networks | 2,048 | 2 | 100.0 → 20.0, 20.0 | 97.0 → 95.0, 95.0"
        " | 0/2 | 10 |",
    ]


def test_rows_of_several_files_are_printed(tmp_path, capsys):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file, agent in zip(files, "AB", strict=True):
        file.write_text(json.dumps(row(agent)) + "\n")
    assert main(["--rows", *map(str, files)]) == 0
    assert capsys.readouterr().out == table([row("A"), row("B")]) + "\n"


@pytest.mark.parametrize(
    ("line", "lacks"),
    [("no JSON", "JSON"), ("3", "JSON"), ('{"agent": "A"}', "world, reward_calls, seed, seconds")],
)
def test_what_is_no_row_is_an_error_that_names_its_line(tmp_path, capsys, line, lacks):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2 is no row of a run: it lacks {lacks}"):
        read([file])
    with pytest.raises(SystemExit):
        main(["--rows", str(file)])
    assert "rows.jsonl:2" in capsys.readouterr().err


def test_rows_are_appended_where_they_are_printed_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(off_the_shelf, "run", lambda world, *_: row(world=world))
    file = tmp_path / "new" / "rows.jsonl"
    for _ in range(2):
        assert main(["--worlds", "ShiftWorld-v1", "--seeds", "1", "--out", str(file)]) == 0
    assert file.read_text().count("\n") == 2
    capsys.readouterr()
    assert main(["--rows", str(file)]) == 0
    assert "| ShiftWorld-v1 | A | 2,048 | 2 |" in capsys.readouterr().out


def test_a_run_trains_and_is_judged_on_test_data(monkeypatch):
    monkeypatch.setitem(off_the_shelf.ALGORITHMS, "PPO", (4, {"n_steps": 32}))
    found = run("ShiftWorld-v1", "PPO", 128, seed=0, arguments={"batch_size": 64})
    assert found["agent"] == "SB3 PPO"
    assert found["settings"] == {"n_steps": 32}
    assert found["env_kwargs"] == {"batch_size": 64}
    assert all(0 <= found[name] <= 1 for name in METRICS)
    assert table([found]).count("\n") == 2
