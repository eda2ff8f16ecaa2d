"""Formats and data from a folder outside the package, by import path."""

import json
import sys

import pytest

from editgym.data.errors import DataError
from editgym.data.facts import load_requests
from editgym.data.text import FORMATS, comment_format
from editgym.tasks import make_task

SOURCE = """
import torch

from editgym.data.fact_formats import FactFormat
from editgym.data.identity import IdentityTexts
from editgym.data.images import ImageData, Labelled
from editgym.data.text import CommentFormat, Comments

FACTS = FactFormat("mine", ("who", "ask", "say"), subject="who", prompt="ask", target="say")
COMMENTS = CommentFormat("said", "rude", lambda value: value > 2)
NUMBER = 3
WHO = "old tall young short left right far near slow fast thin wide".split()


def squares():
    inputs = torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(80) % 4
    return ImageData(Labelled(inputs[:60], labels[:60]), Labelled(inputs[60:], labels[60:]), 4)


def comments():
    texts = tuple(f"you are {word} {i}" for i in range(40) for word in ("nice", "vile"))
    return Comments(texts, (0, 1) * 40)


def identities():
    rows = [
        (f"{who} people are {word} {i}", label, who, f"people are {word} {i}", word)
        for i in range(10) for word, label in (("nice", 0), ("vile", 1)) for who in WHO
    ]
    return IdentityTexts(*map(tuple, zip(*rows, strict=True)))


def nothing():
    return 7
"""


@pytest.fixture
def strangers_data(tmp_path, monkeypatch):
    """The module `strangers_data`, importable while the test runs."""
    (tmp_path / "strangers_data.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("strangers_data", None)


def test_facts_are_read_by_a_strangers_format(strangers_data):
    path = strangers_data / "own.json"
    path.write_text(json.dumps([{"who": "Ada", "ask": "{} lives in", "say": "Rome"}]))
    loaded = load_requests(path, "strangers_data:FACTS")
    assert loaded.format == "strangers_data:FACTS"
    (request,) = loaded.requests
    assert (request.subject, request.prompt, request.target) == ("Ada", "Ada lives in", "Rome")
    with pytest.raises(ValueError, match="'strangers_data:NUMBER' is a int, and must be a FactF"):
        load_requests(path, "strangers_data:NUMBER")
    path.write_text(json.dumps([{"who": "Ada", "ask": "{} lives in"}]))
    with pytest.raises(DataError, match=r"record 0: 'say': missing field"):
        load_requests(path, "strangers_data:FACTS")


def test_comments_are_read_by_a_strangers_format(strangers_data):
    columns = comment_format("strangers_data:COMMENTS", None, None)
    assert (columns.text, columns.is_toxic(3), columns.is_toxic(2)) == ("said", True, False)
    assert columns not in FORMATS.values()


def test_images_come_from_a_strangers_loader(strangers_data, custom_arguments):
    task = make_task("unlearning/custom", **{**custom_arguments, "data": "strangers_data:squares"})
    assert (len(task.splits.test), task.n_classes) == (20, 4)
    with pytest.raises(ValueError, match="returned a int, and must return a ImageData"):
        make_task("unlearning/custom", **{**custom_arguments, "data": "strangers_data:nothing"})
    with pytest.raises(ValueError, match="is a int, and must be a function without arguments"):
        make_task("unlearning/custom", **{**custom_arguments, "data": "strangers_data:NUMBER"})


def test_texts_come_from_a_strangers_loaders(strangers_data):
    task = make_task(
        "debiasing/toxicity",
        comments="strangers_data:comments",
        identities="strangers_data:identities",
        vocabulary=50,
    )
    assert "tall" in {
        term
        for part in (task.splits.policy, task.splits.validation, task.splits.test)
        for term in part.unbiased.identities
    }
    general = task.splits.test.general.texts
    assert general
    assert all(text.startswith("you are ") for text in general)
