"""Parts from a stranger's folder are found by import path; errors say which part is missing."""

import sys
from fractions import Fraction

import pytest
from torch import nn
from transformers import BertConfig, BertModel

from editgym.imports import (
    imported,
    is_import_path,
    is_of_library,
    is_pretrained_model,
    is_written_as_path,
    loaded_as,
)


@pytest.fixture
def strangers(tmp_path, monkeypatch):
    """A folder on the path with the modules `strangers_part` and `strangers_broken`."""
    (tmp_path / "strangers_part.py").write_text("def build():\n    return 7\n")
    (tmp_path / "strangers_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("strangers_part", "strangers_broken"):
        sys.modules.pop(name, None)


def test_a_part_is_found(strangers):
    assert imported("strangers_part:build", "task")() == 7


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("strangers_part", "task: 'strangers_part' is no import path: write package.module:name"),
        (":build", "is no import path"),
        ("strangers_part:", "is no import path"),
        (
            "./own.py:build",
            "task: './own.py:build' names a file, and must name a module: write own:build",
        ),
        ("own.py:build", "names a file, and must name a module: write own:build"),
        (".own:build", "names a file"),
        (7, "task: 7 is no import path"),
        ("no.such.module:build", "cannot import the module 'no.such.module' of 'no.such.module:"),
        (
            "strangers_part:biuld",
            "the module 'strangers_part' has no 'biuld'; write",
        ),
        ("strangers_broken:build", "ZeroDivisionError: division by zero"),
    ],
)
def test_the_error_says_which_part_is_missing(strangers, path, message):
    with pytest.raises(ValueError, match=r"^task: ") as caught:
        imported(path, "task")
    assert message in str(caught.value)


def test_a_path_has_a_colon():
    assert is_import_path("package.module:name")
    assert not is_import_path("unlearning/digits")
    assert not is_import_path(7)


@pytest.mark.parametrize("text", ["a:b", "package.module:Name", "_a.b2.c:_d"])
def test_a_path_to_the_letter(text):
    assert is_written_as_path(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a:", ":b", "a", "a.b", "a: b", "a :b", "a:b ", "a..b:c", ".a:b", "a.:b"),
        *("a:b:c", "a:b.c", "a:2", "2:a", "cuda:0", "layers.3.mlp:down", "a-b:c", "own:Own-v0"),
        *("http://a.b/c", "https://a.b:80", "C:\\data", "C:/data", "C:data.csv", "12:30"),
    ],
)
def test_other_texts_with_a_colon_are_no_paths(text):
    assert not is_written_as_path(text)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("load = 3", "'raising_loader:load' is a int, and must be a function without arguments"),
        ("def load(): return 'x'", "returned a str, and must return a dict"),
        ("def load(): 1 / 0", "called without arguments, raised ZeroDivisionError: division"),
        ("def load(a): pass", "called without arguments, raised TypeError: .*missing 1 required"),
    ],
)
def test_a_loader_that_gives_nothing_is_named(tmp_path, monkeypatch, body, message):
    (tmp_path / "raising_loader.py").write_text(body + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("raising_loader", None)
    with pytest.raises(ValueError, match=f"data: .*{message}"):
        loaded_as(dict, "raising_loader:load", "data")
    sys.modules.pop("raising_loader", None)


def test_a_class_of_a_library_is_told_without_its_import(monkeypatch):
    assert is_of_library(Fraction(1, 2), "fractions", "Fraction")
    assert not is_of_library(0.5, "fractions", "Fraction")
    monkeypatch.delitem(sys.modules, "fractions")
    assert not is_of_library(0.5, "fractions", "Fraction")
    assert "fractions" not in sys.modules


def test_models_of_transformers_are_told_from_others():
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    assert is_pretrained_model(BertModel(config))
    assert not is_pretrained_model(nn.Linear(2, 2))
