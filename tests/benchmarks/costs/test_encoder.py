"""What a reward costs on an encoder and on the head of a transformer of images."""

import json
from pathlib import Path

import pytest

from benchmarks.costs import encoder, vit
from benchmarks.costs.worlds import bare_suffix
from editgym.models.training import Recipe
from editgym.tasks.debiasing import heads as text_heads

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def test_an_encoder_is_timed(tiny_encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(text_heads, "HEAD_RECIPE", Recipe(epochs=1))
    own = {"model": tiny_encoder, "data": "templates", "max_length": 24, "least_accuracy": 0.0}
    monkeypatch.setattr(encoder, "TASK", encoder.TASK | own)
    file = tmp_path / "cost.json"
    asked = ["--texts", "20", "--rewards", "3", "--ppo-calls", "8", "--json", str(file)]
    assert encoder.main(asked) == 0
    found = json.loads(file.read_text())
    assert found["d_ppo"]["wall_s"] == pytest.approx(found["d_ppo_measured"]["wall_s"] * 2_560)
    printed = capsys.readouterr().out
    assert "PPO, 20,480 reward calls" in printed
    assert printed.count(" processor ") == 5


def test_an_encoder_that_was_not_fetched_is_an_error_with_the_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(encoder, "TASK", encoder.TASK | {"data": "templates"})
    assert encoder.main(["--json", str(tmp_path / "cost.json")]) == 2
    assert "python -m editgym.models.fetch minilm-l6" in capsys.readouterr().err
    assert not (tmp_path / "cost.json").exists()


@pytest.mark.slow
def test_the_head_of_a_transformer_of_images_reuses_what_lies_below():
    task = vit.head()
    (seen,) = task.networks[0].activations(task.pool.inputs[:5])
    assert seen.shape == (5, 192)
    assert bare_suffix(task, 2, 0.0) > 0


def test_what_was_measured_is_as_fast_as_is_said():
    cost = json.loads((RESULTS / "encoder" / "cost.json").read_text())
    assert cost["batch"] == [256, 256]
    assert max(cost["c_reward"].values()) < 0.02
    assert max(cost["d_ppo"].values()) < 600
    (found,) = json.loads((RESULTS / "throughput_vit.json").read_text())["tasks"]
    assert found["a_by_hand_us"] > 100 * found["c_vector_us"]["64"]
