"""The costs of editing a language model are measured, on the bundled one."""

import json

import pytest

from benchmarks.costs import language_model


@pytest.mark.slow
def test_every_ratio_is_of_two_things_that_took_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(language_model, "_TOKENS", 3_000)
    monkeypatch.setattr(language_model, "_EPOCHS", 1)
    file = tmp_path / "cost.json"
    asked = ["--model", "factlm", "--task", "knowledge/factworld", "--edits", "10"]
    named = ["--prompt-formats", "bare,qa"]
    more = ["--set", 'sites=["model.layers.[45].mlp.down_proj"]']
    assert language_model.main([*asked, *named, *more, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["make_s"] > 0
    covariances = found["covariances"]
    assert covariances["warm_s"] < 0.5 * covariances["cold_s"], "read, not computed"
    for form in ("bare", "qa"):
        for pair in found[form].values():
            assert 0 < pair["least_ratio"] <= pair["ratio"]
            assert min(pair["ours_s"], pair["bare_s"]) > 0
