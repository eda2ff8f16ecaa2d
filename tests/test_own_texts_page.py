"""docs/guides/own_texts.md and debias.md, which goes on from it, are followed word for word, blocks
and command lines alike, in one folder."""

import re
from pathlib import Path

import pytest
import torch
from reader import follow

from editgym.data.errors import DataError
from editgym.tasks import make_task

pytestmark = pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
TEXT = (GUIDES / "own_texts.md").read_text(encoding="utf-8")
NEXT = (GUIDES / "debias.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """The folder of a reader who has done all that the two pages say, and what both led to."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDITGYM_DATA", str(folder / "no data"))
        first = follow(TEXT, folder, patch)
        return folder, first, follow(NEXT, folder, patch, first.names)


def test_every_block_and_command_is_followed(followed):
    folder, first, second = followed
    assert (first.blocks, first.commands) == (7, 0)
    assert (second.blocks, second.commands) == (2, 2)
    names = second.names
    assert (folder / "edited" / "model.safetensors").is_file()
    assert (folder / "runs" / "fair" / "merged.safetensors").is_file()
    edited, unlike = (
        names["edited"](**names["ids"]).logits,
        names["classifier"](**names["ids"]).logits,
    )
    assert torch.allclose(edited, names["logits"], atol=1e-5)
    assert not torch.allclose(edited, unlike, atol=1e-2)


def test_the_page_says_what_its_reader_sees(followed):
    report = followed[2].names["report"]
    # Another processor may round differently, and train another classifier.
    assert report["equalized_odds_gap"] < report["equalized_odds_gap_before"] - 0.2
    assert report["unbiased_accuracy"] > report["unbiased_accuracy_before"] + 0.1
    assert report["general_accuracy"] > report["general_accuracy_before"] - 0.03


def third_row(cells):
    """What puts other cells into a table's third row."""

    def spoil(lines):
        return [*lines[:3], cells, *lines[4:]]

    return spoil


PLAIN = {"text": "test_case", "label": "label_gold"}
# For each row of the page's table: arguments that are changed, and what is done to a file's lines.
SPOILT = {
    "a column that is not there": ({"text_column": "text"}, None),
    "a value that is missing": ({}, ("train.csv", third_row("men are kind,"))),
    "a label that says nothing": (
        {"toxic_values": None},
        ("train.csv", lambda lines: [lines[0], "x,toxic", "x,no", "x,meh", *lines[4:]]),
    ),
    "a class number": (
        {"toxic_values": None},
        ("train.csv", lambda lines: [lines[0], "x,toxic", "x,no", "x,2", *lines[4:]]),
    ),
    "a value of `toxic_values` that no row has": ({"toxic_values": ["rude"]}, None),
    "another encoding": ({"encoding": "utf-8"}, None),
    "a row with too many cells": ({}, ("train.csv", third_row("men, too,fine"))),
    "a quote that is never closed": ({}, ("train.csv", third_row('"men,fine'))),
    "a share that is none": ({}, ("civil.csv", third_row("men are kind,0,7,,,"))),
    "a name in `names` that never comes": (
        {"identities_format": {**PLAIN, "identity": "target_ident", "names": {"x": "y"}}},
        None,
    ),
    "too few identities to divide": ({"hold_out_identities": True}, None),
    "a fairness term with nothing to compare": ({"identities_format": PLAIN}, None),
}
SHAPE_OF = {"a share that is none": "SHARES", "too few identities to divide": "CROSSED"}


def refusals():
    table = TEXT.split("| what | message |\n|---|---|\n")[1].splitlines()
    return dict(re.fullmatch(r"\| (.+) \| `(.+)` \|", line).groups() for line in table)


@pytest.mark.parametrize("what", SPOILT)
def test_what_the_page_says_is_refused_is_refused_so(followed, tmp_path, monkeypatch, what):
    folder, names = followed[0], followed[1].names
    changed, spoilt = SPOILT[what]
    arguments = names["COMMENTS"] | names[SHAPE_OF.get(what, "NAMED")] | changed
    for key in ("comments", "test_comments", "identities"):
        arguments[key] = str(folder / arguments[key])
    if spoilt is not None:
        file, spoil = spoilt
        lines = spoil((folder / file).read_text(encoding="cp1252").splitlines())
        (tmp_path / file).write_text("\n".join(lines) + "\n", encoding="cp1252")
        arguments["comments" if file == "train.csv" else "identities"] = str(tmp_path / file)
    monkeypatch.chdir(folder)
    with pytest.raises(DataError) as error:
        make_task(
            **{"name": "debiasing/transformer", "edit_terms": {"fped": 1}},
            **model(names),
            **arguments,
        )
    # The page's ellipses stand for more words, but for the one in toxic_values=[…].
    parts = re.split(r"(?<!\[)…", refusals()[what])
    position = 0
    for part in parts:
        position = str(error.value).index(part.strip(), position)


def model(names):
    return {key: value for key, value in names["CLASSIFIER"].items() if key != "task"}


def test_every_refusal_of_the_page_is_tried():
    assert refusals().keys() == SPOILT.keys()
