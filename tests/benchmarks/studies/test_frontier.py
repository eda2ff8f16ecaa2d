import json

import pytest

from benchmarks.results import Cell, Measurement, append_row, build_row
from benchmarks.studies import frontier
from benchmarks.studies.frontier import Change, available, main, mean_curve, shares, trace
from editgym.tasks import make_task

CURVE = [Change(0.01, 0.0), Change(0.0, 0.02), Change(-0.02, 0.06), Change(-0.05, 0.05)]


def cell(agent="ppo", seed=0, world="ShiftWorld-v0", **env_kwargs):
    return Cell(
        "worlds",
        world,
        {"task": "debiasing/templates", "model_seed": seed, **env_kwargs},
        agent,
        {},
        seed,
        reward_calls=5,
    )


_HARDWARE = {"machine": "", "system": "", "cpu": "a processor", "cpu_count": 2, "gpu": None}


def row(agent, seed, general, unbiased, **env_kwargs):
    before = {"general_accuracy_before": 0.9, "unbiased_accuracy_before": 0.6}
    metrics = {**before, "general_accuracy": 0.9 + general, "unbiased_accuracy": 0.6 + unbiased}
    return build_row(
        cell(agent, seed, **env_kwargs),
        Measurement("finished", "reward", metrics),
        {"versions": {}, "hardware": _HARDWARE, "git": None},
    )


@pytest.mark.parametrize(
    ("general", "expected"),
    [(0.0, 0.02), (-0.01, 0.04), (-0.02, 0.06), (-0.04, 0.06), (0.005, 0.01), (0.02, 0.0)],
)
def test_what_the_frontier_gains_at_no_more_loss(general, expected):
    assert available(CURVE, general) == pytest.approx(expected)


def test_a_frontier_that_only_loses_is_worth_no_edit():
    assert available([Change(-0.01, -0.02), Change(-0.02, -0.1)], -0.05) == 0


def test_curves_are_averaged_point_by_point():
    assert mean_curve([[Change(0, 0.2)], [Change(-0.2, 0.4)]]) == [Change(-0.1, pytest.approx(0.3))]


def test_frontier_of_a_cell_is_measured_on_its_test_split():
    curve = trace(cell(seed=1, signal="accuracy"))
    assert len(curve) == len(frontier.WEIGHTINGS)
    assert max(point.unbiased for point in curve) > 0
    task = make_task("debiasing/templates", model_seed=1)
    sizes = [len(part) for part in task.splits.test]
    for point in curve:
        for change, size in zip((point.general, point.unbiased), sizes, strict=True):
            assert change * size == pytest.approx(round(change * size), abs=1e-6)


def test_shares_and_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frontier, "trace", lambda of: CURVE)
    rows = [row("ppo", 0, -0.02, 0.02), row("ppo", 1, 0.0, 0.04), row("no_edit", 0, 0.0, 0.0)]
    found = {share.agent: share for share in shares(rows)}
    assert found["ppo"].seeds == 2
    assert found["ppo"].available == pytest.approx(0.04)
    assert found["ppo"].share == pytest.approx(0.75)
    assert found["no_edit"].share == 0
    for each in rows:
        append_row(tmp_path / "results.jsonl", each)
    main([str(tmp_path), "--json", str(tmp_path / "frontier.json")])
    assert (
        "| ShiftWorld-v0 · debiasing/templates | ppo | 2 | -1.00 | +3.00 | +4.00 | 75% |"
        in capsys.readouterr().out
    )
    assert json.loads((tmp_path / "frontier.json").read_text())[0]["share"] == pytest.approx(0.75)


def test_what_was_written_is_printed_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frontier, "trace", lambda of: CURVE)
    for seed in (0, 1):
        append_row(tmp_path / "results.jsonl", row("ppo", seed, -0.02, 0.02))
    file = tmp_path / "frontier.json"
    assert main([str(tmp_path), "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    monkeypatch.setattr(frontier, "trace", None)
    assert main(["--show", str(file)]) == 0
    assert capsys.readouterr().out == printed
    assert main(["--show", str(file), "--task", "debiasing/templates"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["--show", str(file), "--task", "debiasing/toxicity"]) == 2
    assert "no share is of debiasing/toxicity" in capsys.readouterr().err
    file.write_text('[{"agent": "ppo"}]')
    assert main(["--show", str(file)]) == 2
    assert "frontier.json is no file of shares: KeyError('stratum')" in capsys.readouterr().err


def test_edits_of_other_sites_are_not_averaged_with_those_of_the_last_layer(monkeypatch):
    monkeypatch.setattr(frontier, "trace", lambda of: CURVE)
    last, deep = shares([row("ppo", 0, -0.02, 0.02), row("ppo", 0, -0.02, 0.12, sites=["fc2"])])
    assert (last.seeds, deep.seeds) == (1, 1)
    assert "fc2" in deep.stratum
    assert deep.share == pytest.approx(2.0)


def test_a_folder_without_rows_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: no rows in {tmp_path}")


def test_budgets_are_not_averaged(monkeypatch):
    monkeypatch.setattr(frontier, "trace", lambda of: CURVE)
    more = row("ppo", 0, -0.02, 0.06)
    more |= {"budget": {"reward_calls": 50}, "reward_calls": 48}
    found = {share.agent: share.unbiased for share in shares([row("ppo", 0, -0.02, 0.02), more])}
    assert found == {
        "ppo (reward_calls=5)": pytest.approx(0.02),
        "ppo (reward_calls=50)": pytest.approx(0.06),
    }
