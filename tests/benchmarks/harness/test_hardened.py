"""What strangers' parts and damaged files may do is an outcome or an error that says so."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from agents import train
from agents.catalogue import make_agent
from agents.rl.algorithms import check_takes
from benchmarks.harness.fingerprints import content_hash
from benchmarks.harness.validation import validate_row
from benchmarks.results import ROWS_FILE, ResultsError, read_rows
from envs_registry import environment_spec

OWN = Path(__file__).parents[2] / "recipes" / "own"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.array(["a", None], object), np.array(["b", None], object)),
        (np.int64(3), np.int64(4)),
        (b"a", b"b"),
        (Path("a"), Path("b")),
        (torch.tensor([1.0]), torch.tensor([2.0])),
    ],
)
def test_content_is_told_by_its_value(one, other):
    assert content_hash([one]) != content_hash([other])


def test_texts_in_an_array_of_objects_are_hashed_not_their_addresses():
    first, again = ("".join(["a text ", str(number)]) for number in (7, 7))
    assert first is not again
    pair = [content_hash(np.array([text], object)) for text in (first, again)]
    assert pair[0] == pair[1]


@pytest.mark.parametrize(
    "row", [{"schema": 2}, {"schema": 1, "suite": "own"}, {"schema": 2, "a": 1}]
)
def test_a_row_without_its_fields_is_a_results_error(tmp_path, row):
    (tmp_path / ROWS_FILE).write_text(json.dumps(row) + "\n")
    with pytest.raises(ResultsError, match="lacks a field of its schema"):
        read_rows(tmp_path / ROWS_FILE)


def test_a_row_whose_hash_was_taken_away_is_not_reproduced(make_row, tmp_path):
    row = {**make_row("ppo"), "edit_file": "edits/none.safetensors", "row_sha256": None}
    problems = validate_row(row, tmp_path).problems
    assert any("the row is not the one that was written" in problem for problem in problems)


def test_an_environment_by_import_path_is_registered_first(monkeypatch):
    monkeypatch.syspath_prepend(str(OWN))
    spec = environment_spec("own_environment:OwnMatrix-v0", {"model_seed": 3})
    assert (spec.id, spec.kwargs["model_seed"]) == ("OwnMatrix-v0", 3)
    assert environment_spec("editgym:MaskWorld-v0", {}).id == "MaskWorld-v0"


def test_training_in_a_strangers_environment(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(OWN))
    command = ["--env", "own_environment:OwnMatrix-v0", "--agent", "no_edit"]
    assert train.main([*command, "--out", str(tmp_path / "good")]) == 0
    assert train.main([*command, "--set", "size=1", "--out", str(tmp_path / "bad")]) == 2
    assert "--set: own_environment:OwnMatrix-v0 cannot be made with" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
    assert train.main(["--env", "no_such:Id-v0", "--agent", "no_edit", "--out", str(tmp_path)]) == 2
    assert "--env: No module named 'no_such'" in capsys.readouterr().err


def test_settings_that_are_somebody_elses_are_refused():
    with pytest.raises(ValueError, match="unknown setting 'name'"):
        make_agent("no_edit", **{"name": "x"})
    with pytest.raises(ValueError, match="ppo takes no hyperparameter device"):
        check_takes("ppo", _Algorithm, {"device": "nope"})
    with pytest.raises(ValueError, match="seed must be a whole number, got 'x'"):
        make_agent("fine_tune", seed="x")


@dataclasses.dataclass
class _Algorithm:
    """An algorithm as Stable-Baselines3 has them."""

    policy: str
    env: str
    learning_rate: float = 1e-3
    device: str = "auto"
    seed: int | None = None
