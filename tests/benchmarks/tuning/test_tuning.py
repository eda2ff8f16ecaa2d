"""The scripts that choose settings: interrupted, and gone on with."""

import importlib
import json
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from benchmarks.harness.processes import in_processes
from benchmarks.tuning import editors as tune_editors
from benchmarks.tuning import unlearning as tune_unlearning

GRID = [{"x": 1}, {"x": 2}, {"x": 3}]


def one_by_one(call, items, jobs):
    for item in items:
        future = Future()
        future.set_result(call(item))
        yield item, future


@pytest.fixture
def editors(monkeypatch):
    def score(agent, config, horizon, seed, device):
        return {
            "agent": agent,
            "config": config,
            "horizon": horizon,
            "seed": seed,
            "harmonic_mean": config["x"] / 4,
        }

    monkeypatch.setattr(tune_editors, "GRIDS", {"rome": GRID})
    monkeypatch.setattr(tune_editors, "STREAM_SEEDS", (0,))
    monkeypatch.setattr(tune_editors, "score", score)
    monkeypatch.setattr(tune_editors, "in_processes", one_by_one)
    return lambda path: tune_editors.main(["--out", str(path), "--horizons", "5"])


@pytest.fixture
def unlearning(monkeypatch):
    def score(task, name, config, model_seed):
        return {
            "task": task,
            "agent": name,
            "config": config,
            "model_seed": model_seed,
            "retain": config["x"] / 4,
            "forget": 0.0,
            "retain_before": 1.0,
            "forget_before": 1.0,
        }

    monkeypatch.setattr(tune_unlearning, "GRIDS", {"unlearning/digits": {"ssd": GRID}})
    monkeypatch.setattr(tune_unlearning, "MODEL_SEEDS", {"unlearning/digits": (10,)})
    monkeypatch.setattr(tune_unlearning, "score", score)
    return lambda path: tune_unlearning.main(
        ["--out", str(path), "--agents", "ssd", "--tasks", "unlearning/digits"]
    )


@pytest.mark.parametrize("script", ["editors", "unlearning"])
@pytest.mark.parametrize("lost", [1, 20])
def test_a_torn_last_row_is_measured_again(script, lost, request, tmp_path, capsys):
    run, path = request.getfixturevalue(script), tmp_path / "rows.jsonl"
    assert run(path) == 0
    printed, whole = capsys.readouterr().out, path.read_bytes()
    path.write_bytes(whole[:-lost])
    assert run(path) == 0
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert [json.loads(line)["config"]["x"] for line in sorted(path.read_text().splitlines())] == [
        1,
        2,
        3,
    ]
    assert capsys.readouterr().out == printed
    assert '{"x": 3}' in printed


# Says that it ran, by a file; fails at 1, dies at 2, and takes its time from 3 on.
STUMBLE = """
import os, time

def stumble(item):
    folder, index = item
    (folder / f"{index}").touch()
    if index == 1:
        raise ValueError("one")
    if index == 2:
        os._exit(1)
    if index > 2:
        time.sleep(0.2)
    return index
"""


@pytest.mark.slow
def test_an_item_that_fails_or_dies_takes_no_other_down_and_none_begins_after_the_end(
    tmp_path, monkeypatch
):
    (tmp_path / "stumbling.py").write_text(STUMBLE)
    monkeypatch.syspath_prepend(tmp_path)
    seen, folder = {}, tmp_path / "begun"
    folder.mkdir()
    finished = in_processes(
        importlib.import_module("stumbling").stumble, [(folder, index) for index in range(12)], 2
    )
    for (_, index), future in finished:
        seen[index] = future.exception() or future.result()
        if len(seen) == 5:
            break
    finished.close()
    assert isinstance(seen.pop(1), ValueError)
    assert isinstance(seen.pop(2), BrokenProcessPool)
    assert all(index == result for index, result in seen.items())
    begun = len(list(folder.iterdir()))
    time.sleep(0.5)
    assert begun == len(list(folder.iterdir())) < 9


def test_a_configuration_that_collapses_is_a_row_and_never_the_best(
    editors, monkeypatch, tmp_path, capsys
):
    def collapsed(agent, config, horizon, seed, device):
        return {
            "agent": agent,
            "config": config,
            "horizon": horizon,
            "seed": seed,
            "harmonic_mean": None if config["x"] == 3 else config["x"] / 4,
        }

    monkeypatch.setattr(tune_editors, "score", collapsed)
    assert editors(tmp_path / "rows.jsonl") == 0
    assert '{"x": 2}' in capsys.readouterr().out
