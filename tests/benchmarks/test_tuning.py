"""The scripts that choose settings: interrupted, and gone on with."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import tune_editors, tune_unlearning

GRID = [{"x": 1}, {"x": 2}, {"x": 3}]


@pytest.fixture
def editors(monkeypatch):
    def score(agent, config, horizon, seed, device):
        return {"agent": agent, "config": config, "horizon": horizon, "seed": seed, "harmonic_mean": config["x"] / 4}

    monkeypatch.setattr(tune_editors, "GRIDS", {"rome": GRID})
    monkeypatch.setattr(tune_editors, "STREAM_SEEDS", (0,))
    monkeypatch.setattr(tune_editors, "score", score)
    monkeypatch.setattr(tune_editors, "ProcessPoolExecutor", ThreadPoolExecutor)
    return lambda path: tune_editors.main(["--out", str(path), "--horizons", "5"])


@pytest.fixture
def unlearning(monkeypatch):
    def score(task, name, config, model_seed):
        return {"task": task, "agent": name, "config": config, "model_seed": model_seed, "retain": config["x"] / 4,
                "forget": 0.0, "retain_before": 1.0, "forget_before": 1.0}

    monkeypatch.setattr(tune_unlearning, "GRIDS", {"unlearning/digits": {"ssd": GRID}})
    monkeypatch.setattr(tune_unlearning, "MODEL_SEEDS", {"unlearning/digits": (10,)})
    monkeypatch.setattr(tune_unlearning, "score", score)
    return lambda path: tune_unlearning.main(["--out", str(path), "--agents", "ssd", "--tasks", "unlearning/digits"])


@pytest.mark.parametrize("script", ["editors", "unlearning"])
@pytest.mark.parametrize("lost", [1, 20])
def test_a_torn_last_row_is_measured_again(script, lost, request, tmp_path, capsys):
    run, path = request.getfixturevalue(script), tmp_path / "rows.jsonl"
    assert run(path) == 0
    printed, whole = capsys.readouterr().out, path.read_bytes()
    path.write_bytes(whole[:-lost])
    assert run(path) == 0
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert [json.loads(line)["config"]["x"] for line in sorted(path.read_text().splitlines())] == [1, 2, 3]
    assert capsys.readouterr().out == printed
    assert '{"x": 3}' in printed
