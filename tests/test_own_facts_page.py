"""docs/guides/own_facts.md is followed word for word: its blocks and its command, one after the
other, in an empty folder."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
from reader import follow

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "own_facts.md"


@pytest.mark.slow
def test_the_page_is_followed_word_for_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("EDITGYM_CACHE", str(tmp_path / "cache"))
    try:
        followed = follow(PAGE.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    finally:
        sys.modules.pop("my_facts", None)
    assert (followed.blocks, followed.commands) == (7, 2)
    names, printed = followed.names, capsys.readouterr().out
    facts = [json.loads(line) for line in Path("facts.jsonl").read_text().splitlines()]
    filled = [fact["says"].replace("{}", fact["who"]) for fact in facts]
    assert names["prompts"] == filled
    assert [request.target for request in names["requests"]] == [fact["now"] for fact in facts]
    # The model knew all ten; what the page says of the answers after the edit.
    assert names["before"] == [fact["was"] for fact in facts]
    right = [new == fact["now"] for new, fact in zip(names["after"], facts, strict=True)]
    assert [fact["who"] for fact, one in zip(facts, right, strict=True) if not one] == [
        "Orfel Febadon"
    ]
    metrics = names["report"].metrics
    asked = ("reliability", "generalization", "locality")
    assert [metrics[name] for name in asked] == pytest.approx([0.9, 0.8, 1.0], abs=0.11)
    assert "The instrument of Nehart Molenwick is the harmonica" in printed
    assert "broken.jsonl: record 0: 'now': empty field; must not be empty" in printed
    assert "undone: every weight and every answer is what it was" in printed
    assert "'organ'  ->  'harmonica'" in printed, "the command does the same"
    assert (tmp_path / "runs" / "facts" / "adapter" / "adapter_config.json").is_file()
    assert "memit_seq has the highest harmonic mean" in printed
