"""What validation notices: it is bitwise on the processor that measured."""

import dataclasses
import hashlib
import math
import shutil
import sys

import pytest

from benchmarks.harness.fingerprints import content_hash
from benchmarks.harness.runner import run_cells
from benchmarks.harness.shipping import ship_rows
from benchmarks.harness.validation import differences, validate_row
from benchmarks.results import (
    ROWS_FILE,
    SHIPPED_BYTES,
    Cell,
    read_rows,
    row_hash,
    ships_by_hash_alone,
)
from benchmarks.suites.cells import cells
from benchmarks.suites.entry import Entry, Suite
from editgym.weights import EditJournal


@pytest.fixture
def finished(tmp_path):
    """The finished row of a quick cell, and its folder."""
    entry = Entry("ShiftWorld-v0", "unlearning/digits", ("random",), reward_calls=64)
    (row,) = run_cells(cells(Suite("quick", 1, (entry,))), tmp_path)
    assert row["status"] == "finished", row["error"]
    return row, tmp_path


def rewritten(row, **changes):
    row = {**row, **changes}
    return {**row, "row_sha256": row_hash(row)}


def test_a_row_that_is_off_by_one_bit_is_not_reproduced(finished):
    row, folder = finished
    assert validate_row(row, folder).problems == ()
    for key in ("retain_accuracy", "weights_changed_norm"):
        near = math.nextafter(row["metrics"][key], math.inf)
        off = rewritten(row, metrics={**row["metrics"], key: near})
        (problem,) = validate_row(off, folder).problems
        assert problem.startswith(f"{key}: recorded {near!r}")


def test_a_row_knows_its_model_and_its_data(finished):
    row, folder = finished
    assert all(len(row["fingerprints"][name]) == 64 for name in ("model", "data"))
    for name in ("model", "data"):
        other = rewritten(row, fingerprints={**row["fingerprints"], name: "0" * 64})
        (problem,) = validate_row(other, folder).problems
        assert problem.startswith(f"fingerprint of the {name}: recorded 000")


def test_a_journal_that_the_access_does_not_allow_is_not_replayed(finished):
    row, folder = finished
    file = folder / row["edit_file"]
    journal = EditJournal.load(file)
    (edit,) = journal.entries
    twice = dataclasses.replace(edit.update, a=2 * edit.update.a, b=2 * edit.update.b)
    EditJournal(journal.base_hash, [dataclasses.replace(edit, update=twice)]).save(file)
    content = file.read_bytes()
    other = rewritten(row, edit_sha256=hashlib.sha256(content).hexdigest(), edit_bytes=len(content))
    (problem,) = validate_row(other, folder).problems
    assert "step 0 is an action with a number of size" in problem


def test_a_row_that_was_changed_is_named(finished):
    row, folder = finished
    (problem,) = validate_row({**row, "reward_calls": 1}, folder).problems
    assert "not the one that was written" in problem


def test_only_metrics_that_a_row_has_are_compared():
    assert differences({"a": 1.0, "b": None}, {"a": 1.0, "c": 2.0}, 0.0) == ()
    assert differences({"a": 1.0}, {"c": 2.0}, 0.0) == ("a: recorded 1.0, replayed None",)


def test_contents_that_differ_have_different_hashes():
    contents = [(), ("a",), ("a", "b"), ("ab",), (1,), (1.0,), (True,), (None,), {"a": 1}, [[1]]]
    hashes = {content_hash(content) for content in contents}
    assert len(hashes) == len(contents)
    assert content_hash(["a"]) == content_hash(("a",))


def test_small_journals_are_shipped_and_large_ones_by_their_hash_alone(
    finished, tmp_path, monkeypatch
):
    row, folder = finished
    assert 0 < row["edit_bytes"] <= SHIPPED_BYTES
    shipped = ship_rows(folder, tmp_path / "published")
    assert (shipped.rows, shipped.journals, shipped.by_hash) == (1, 1, 0)
    assert validate_row(row, tmp_path / "published").problems == ()
    ship_rows(folder, tmp_path / "published")
    assert len((tmp_path / "published" / ROWS_FILE).read_text().splitlines()) == 1

    for module in ("benchmarks.results.integrity", "benchmarks.harness.shipping"):
        monkeypatch.setattr(f"{module}.SHIPPED_BYTES", row["edit_bytes"] - 1)
    shipped = ship_rows(folder, tmp_path / "hashes")
    assert (shipped.rows, shipped.journals, shipped.by_hash) == (1, 0, 1)
    assert read_rows(tmp_path / "hashes" / ROWS_FILE) == [row]
    assert ships_by_hash_alone(row)
    (problem,) = validate_row(row, tmp_path / "hashes").problems
    assert "published by their SHA-256 alone" in problem


@pytest.mark.isolated
def test_a_strangers_module_changes_no_verdict_on_other_rows(tmp_path, monkeypatch):
    """A suite's module is imported by whoever evaluates its rows."""
    module = "from benchmarks.harness import validation\nvalidation.differences = lambda *_: ()\n"
    (tmp_path / "spoiling.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = {"task": "unlearning/digits", "device": "cpu"}
    cell = Cell("hostile", "MaskWorld-v1", arguments, "no_edit", {}, 0)
    (row,) = run_cells([cell], tmp_path)
    strange = {**row, "suite": "spoiling:SUITE"}
    strange["cell"] = Cell.of(strange).id
    strange["edit_file"] = f"edits/{strange['cell']}.safetensors"
    shutil.copy(tmp_path / row["edit_file"], tmp_path / strange["edit_file"])
    strange["row_sha256"] = row_hash(strange)
    assert validate_row(strange, tmp_path).problems == ()
    liar = {**row, "metrics": {**row["metrics"], "retain_accuracy": 1.0}}
    (problem,) = validate_row({**liar, "row_sha256": row_hash(liar)}, tmp_path).problems
    assert problem.startswith("retain_accuracy: recorded 1.0, replayed 0.9")
    assert "spoiling" not in sys.modules
