"""The page of default sites is what the code chooses."""

import pytest
from source import ROOT

from benchmarks.studies import default_sites


def test_the_page_is_what_the_code_gives(tmp_path, capsys):
    committed = (ROOT / "docs" / "default-sites.md").read_text(encoding="utf-8")
    assert default_sites.main(["--out", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == committed
    assert len(default_sites.FAMILIES) >= 12
    assert all(f"| {family} | `" in committed for family in default_sites.FAMILIES)


def test_without_a_file_the_page_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(default_sites, "FAMILIES", {"AlexNet": default_sites.FAMILIES["AlexNet"]})
    assert default_sites.main([]) == 0
    assert capsys.readouterr().out == default_sites.page()
    assert default_sites.page().endswith(
        "| AlexNet | `alexnet` | `classifier.4` | 4,096 × 4,096 |\n"
    )


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(default_sites, "FAMILIES", {})
    assert default_sites.main(["--out", str(tmp_path / "none" / "page.md")]) == 2
    assert "error: --out: cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a1", "a2", "a3"], ["a{1–3}"]),
        (["a.9.b", "a.10.b", "a.11.b", "c"], ["a.{9–11}.b", "c"]),
        (["a1", "a2"], ["a1", "a2"]),
        (["a1", "a2", "a4"], ["a1", "a2", "a4"]),
        (["a1.b1", "a1.b2", "a2.b1"], ["a1.b1", "a1.b2", "a2.b1"]),
        ([], []),
    ],
)
def test_names_that_differ_in_a_number_that_counts_up_are_one(names, expected):
    assert default_sites.numbered(names) == expected
