"""The costs of a large model, measured on one of a tiny shape."""

import json

import pytest
import torch

from benchmarks.costs import large_model
from editgym.envs.lifelong.reward import RewardWeights


@pytest.mark.slow
def test_everything_is_measured_of_a_tiny_shape(tmp_path, capsys):
    file = tmp_path / "new" / "cost.json"
    asked = ["--shape", "tiny", "--edits-per-step", "2", "--steps", "1", "--json", str(file)]
    assert large_model.main(asked) == 0
    found = json.loads(file.read_text())
    names = ("edit_step", "rledit_edit_step", "environment_step", "rledit_training_step")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(names)
    for name, line in zip(names, printed, strict=True):
        assert json.loads(line.removeprefix(name)) == found[name]
    for name in names[:2]:
        assert found[name]["s_per_fact"] == pytest.approx(found[name]["step_s"] / 2)
    for name in names[2:]:
        assert found[name]["ratio"] == pytest.approx(
            found[name]["step_s"] / found[name]["passes_s"]
        )
    assert sorted(found["sites"]) == sorted(
        f"model.layers.{layer}.mlp.{part}_proj" for layer in range(3, 7) for part in ("gate", "up")
    )
    assert found["one_matrix_per_site_bytes"] == 4 * 8 * 64 * 128
    assert found["model_bytes"] == 2 * found["parameters"]
    assert found["back_depth"] == RewardWeights().back_depth


def test_the_model_has_its_shape_in_half_precision_and_the_default_stays():
    language = large_model.random_model("tiny", "cpu")
    assert {parameter.dtype for parameter in language.model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    shape = large_model.SHAPES["tiny"]
    embeddings = 2 * shape["vocab_size"] * shape["hidden_size"]
    attention = 2 * shape["hidden_size"] ** 2 + 2 * shape["hidden_size"] * 32
    layer = attention + 3 * shape["hidden_size"] * shape["intermediate_size"] + 2 * 64
    assert language.model.num_parameters() == embeddings + 8 * layer + 64


def test_the_first_step_is_a_rehearsal(monkeypatch):
    times = iter([100.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(large_model, "seconds", lambda call, device: next(times))

    class Process:
        requests = range(4)
        device = torch.device("cpu")

    assert large_model.edit_step(Process(), None, 3) == {"step_s": 2.0, "s_per_fact": 0.5}


def test_off_a_gpu_no_peak_is_made_up():
    found = large_model.with_peak_memory(lambda: {"step_s": 1.0}, torch.device("cpu"), 10)
    assert found == {"step_s": 1.0}
