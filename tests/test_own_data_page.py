"""docs/guides/own_data.md is followed word for word: its blocks and commands, one after the other,
in an empty folder."""

import sys
from pathlib import Path

import pytest
import torch
from reader import PYTHON, follow
from safetensors.torch import load_file

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "own_data.md"


@pytest.mark.slow
def test_the_page_is_followed_word_for_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    try:
        followed = follow(PAGE.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    finally:
        sys.modules.pop("my_nets", None)
    assert (followed.blocks, followed.commands) == (8, 7)
    namespace = followed.names
    printed = capsys.readouterr().out
    assert "unedited, on the reward data, forget circle: retain_accuracy 100.00%" in printed
    assert "1 of 1 rows reproduced" in printed
    assert "broken.npz" in printed
    assert "one-hot: give y_train.argmax(1)" in printed
    report = namespace["report"]
    assert report["forget_accuracy_before"] > 0.9
    assert report["mia_advantage"] is not None
    assert report["oracle_gap"] > 0
    # What the first training reached: the class is forgotten, the others are kept.
    network = namespace["ShapeNet"]()
    network.load_state_dict(load_file(tmp_path / "runs" / "circle" / "merged.safetensors"))
    test = namespace["data"].test
    with torch.no_grad():
        right = network(test.inputs).argmax(-1) == test.labels
    assert float(right[test.labels == 0].float().mean()) < 0.2
    assert float(right[test.labels != 0].float().mean()) > 0.8


def test_a_command_that_fails_is_noticed(tmp_path, monkeypatch):
    page = f"```bash\n{PYTHON} -m agents.edit \\\n    nowhere\n```\n"
    with pytest.raises(AssertionError, match=r"agents\.edit +nowhere"):
        follow(page, tmp_path, monkeypatch)


def test_a_block_that_fails_is_noticed(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        follow("```python\n1 / 0\n```\n", tmp_path, monkeypatch)
