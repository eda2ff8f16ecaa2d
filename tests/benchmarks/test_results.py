import json
from pathlib import Path

import pytest

from benchmarks.results import (
    SCHEMA,
    Cell,
    Measurement,
    ResultsError,
    append_row,
    build_row,
    read_rows,
    row_hash,
    rows_agree,
)
from benchmarks.results.files import parse_row, read_what_can_be, rows_in

PROVENANCE = {"versions": {}, "hardware": {}, "git": None, "modules": {}}
FIELDS = {
    "schema",
    "cell",
    "suite",
    "env_id",
    "env_kwargs",
    "task",
    "agent",
    "agent_config",
    "settings",
    "budget",
    "access",
    "seed",
    "status",
    "error",
    "metrics",
    "curves",
    "time",
    "reward_calls",
    "peak_memory_bytes",
    "edit_file",
    "edit_sha256",
    "edit_bytes",
    "records_sha256",
    "fingerprints",
    "modules",
    "row_sha256",
    "versions",
    "hardware",
    "git",
}


def test_row_has_every_field_and_the_metrics_that_were_measured(make_row):
    metrics = {"retain_accuracy": 0.9, "oracle_gap": None, "reliability@chat": 1.0, "mine": 2}
    row = make_row(metrics=metrics)
    assert set(row) == FIELDS
    assert row["metrics"] == metrics
    assert row["curves"] == {"retention": None}
    assert row["schema"] == SCHEMA
    assert row["task"] == "unlearning/digits"


def test_journal_is_named_after_the_cell(make_row):
    row = make_row(measured={"journal": b"abc"})
    assert row["edit_file"] == f"edits/{row['cell']}.safetensors"
    assert row["edit_bytes"] == 3
    assert row["edit_sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_failed_row_has_null_results(make_row):
    row = make_row(
        measured={"status": "failed", "error": "ValueError: no", "time": {}, "reward_calls": None}
    )
    assert row["error"] == "ValueError: no"
    assert set(row["time"].values()) == {None}
    assert row["edit_file"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"agent": "ppo"},
        {"seed": 1},
        {"task": "unlearning/mnist"},
        {"suite": "worlds"},
        {"env_id": "ShiftWorld-v0"},
        {"reward_calls": 101},
        {"reward_calls": None},
        {"agent_config": {"rank": 2}},
        {"settings": {"rank": 2}},
    ],
)
def test_cells_that_differ_have_different_ids(make_cell, changed):
    assert make_cell(**changed).id != make_cell().id


def test_cell_id_does_not_depend_on_the_order_of_arguments(make_cell):
    a = make_cell(agent_config={"x": 1, "y": 2})
    assert a.id == make_cell(agent_config={"y": 2, "x": 1}).id
    assert len(a.id) == 64


@pytest.mark.parametrize(
    "value",
    [
        {10: "ten", 9: "nine"},
        {1: {2.5: None, True: 1, None: 2}},
        {"sites": ("a", ("b", 1))},
        {"deep": [{3: ()}]},
    ],
)
@pytest.mark.parametrize("field", ["env_kwargs", "agent_config", "settings"])
def test_cell_keeps_its_id_whatever_json_makes_of_its_values(make_cell, value, field):
    cell = make_cell(**{field: value})
    row = json.loads(json.dumps(build_row(cell, Measurement("failed", error="no"), PROVENANCE)))
    assert Cell.of(row).id == row["cell"] == cell.id
    assert row["row_sha256"] == row_hash(row)
    assert getattr(Cell.of(row), field) == getattr(cell, field)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: "a", "1": "b"}, r"env_kwargs of MaskWorld-v0.x has the keys 1 and '1', .* one key"),
        ({True: 1, "true": 2}, "has the keys True and 'true'"),
        ({"y": [float("nan")]}, r"env_kwargs of MaskWorld-v0\.x\.y\[0\] must be finite, got nan"),
        ({"y": {1, 2}}, r"x\.y must be a JSON value .* of type set"),
        (Path("a"), "x must be a JSON value .* of type PosixPath"),
        ({(1, 2): 3}, r"has the key \(1, 2\), which must be a text"),
        ({float("inf"): 3}, "a key of env_kwargs of MaskWorld-v0.x must be finite"),
    ],
)
def test_what_json_does_not_have_is_an_error_that_names_it(make_cell, value, message):
    with pytest.raises(ValueError, match=message):
        make_cell(env_kwargs={"task": "mine", "x": value})


def test_settings_in_full_make_the_id_and_what_was_typed_does_not(make_cell):
    typed = make_cell(agent_config={"rank": 2}, settings={"rank": 2, "steps": 9})
    assert make_cell(agent_config={}, settings={"rank": 2, "steps": 9}).id == typed.id
    assert make_cell(agent_config={"rank": 2}, settings={"rank": 2, "steps": 8}).id != typed.id


def test_hash_of_a_row_is_over_everything_else_in_it(make_row):
    row = json.loads(json.dumps(make_row(metrics={"retain_accuracy": 0.9})))
    assert row["row_sha256"] == row_hash(row)
    for field in FIELDS - {"row_sha256"}:
        assert row_hash({**row, field: "another"}) != row["row_sha256"], field


def test_cell_comes_back_from_its_row(make_cell, make_row):
    row = json.loads(json.dumps(make_row("ppo", 3)))
    assert Cell.of(row) == make_cell("ppo", 3, settings={})
    assert Cell.of(row).id == row["cell"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"retain_accuracy": float("nan")}, "'retain_accuracy' is nan"),
        ({"perplexity_ratio": float("inf")}, "'perplexity_ratio' is inf"),
    ],
)
def test_impossible_metrics_are_refused(make_row, metrics, message):
    with pytest.raises(ValueError, match=message):
        make_row(metrics=metrics)


def test_last_row_of_a_cell_counts(make_row, tmp_path):
    file = tmp_path / "results.jsonl"
    failed, other, finished = make_row(measured={"status": "failed"}), make_row("ppo"), make_row()
    for row in (failed, other, finished):
        append_row(file, row)
    assert read_rows(file) == [finished, other]


@pytest.mark.parametrize("worse", ["failed", "unsupported"])
def test_a_finished_row_of_a_cell_counts_before_any_other(make_row, tmp_path, worse):
    file = tmp_path / "results.jsonl"
    finished, other = make_row(), make_row(measured={"status": worse, "error": "no"})
    for rows in ((finished, other), (other, finished)):
        file.unlink(missing_ok=True)
        for row in rows:
            append_row(file, row)
        assert read_rows(file) == read_what_can_be(file)[0] == [finished]


def test_two_results_of_one_cell_are_an_error_that_names_it(make_row, tmp_path):
    file = tmp_path / "results.jsonl"
    rows = [make_row(metrics={"retain_accuracy": value}) for value in (0.5, 0.9)]
    for row in rows:
        append_row(file, row)
    said = rf"line 2, cell {rows[0]['cell']}: a line before has another result .*, in metrics"
    with pytest.raises(ResultsError, match=said):
        read_rows(file)
    kept, (problem,) = read_what_can_be(file)
    assert (kept, "another result" in problem) == ([rows[0]], True)
    for folder, row in zip(("one", "other"), rows, strict=True):
        (tmp_path / folder).mkdir()
        append_row(tmp_path / folder / "results.jsonl", row)
    with pytest.raises(ResultsError, match=r"other.results\.jsonl, cell .* another result"):
        rows_in(tmp_path / "one", tmp_path / "other")


def test_a_later_row_of_other_files_of_the_agent_counts(make_row, tmp_path):
    file = tmp_path / "results.jsonl"
    rows = [
        make_row(
            metrics={"retain_accuracy": value},
            measured={"fingerprints": {"agent_files": {"policy": digit * 64}}},
        )
        for value, digit in ((0.5, "0"), (0.9, "1"))
    ]
    for row in (*rows, make_row(measured={"status": "failed", "error": "no"})):
        append_row(file, row)
    assert read_rows(file) == [rows[1]]


def test_no_file_is_no_rows(tmp_path):
    assert read_rows(tmp_path / "results.jsonl") == []


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_torn_last_line_is_dropped_and_does_not_spoil_the_next(make_row, tmp_path, keep):
    file = tmp_path / "results.jsonl"
    first, second, third = (make_row(agent) for agent in ("random", "ppo", "cmaes"))
    append_row(file, first)
    whole = file.read_bytes()
    append_row(file, second)
    file.write_bytes(whole + file.read_bytes()[len(whole) :][:keep])
    assert read_rows(file) == [first]
    append_row(file, third)
    assert read_rows(file) == [first, third]
    assert file.read_bytes().count(b"\n") == 2


def test_file_that_is_one_torn_line_is_empty(make_row, tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_bytes(b'{"schema": 2, "ce')
    assert read_rows(file) == []
    append_row(file, make_row())
    assert read_rows(file) == [make_row()]


def test_foreign_schema_refuses(make_row, tmp_path):
    file = tmp_path / "results.jsonl"
    append_row(file, {**make_row(), "schema": SCHEMA + 1})
    with pytest.raises(
        ResultsError,
        match=rf"line 1 has schema {SCHEMA + 1}, but this version reads schema {SCHEMA} and 1",
    ):
        read_rows(file)


def test_damaged_line_in_the_middle_is_named(make_row, tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_bytes(b"garbage\n")
    append_row(file, make_row())
    with pytest.raises(ResultsError, match="line 1 is not JSON"):
        read_rows(file)


def test_rows_agree_but_for_the_machine(make_row):
    row = make_row(metrics={"retain_accuracy": 0.9})
    elsewhere = {
        **row,
        "time": {},
        "hardware": {},
        "versions": {},
        "git": "0" * 40,
        "modules": {"mine": "0" * 64},
        "peak_memory_bytes": 1,
        "row_sha256": "0" * 64,
    }
    assert rows_agree(row, elsewhere)
    assert not rows_agree(row, make_row(metrics={"retain_accuracy": 0.9 + 1e-16 * 2}))
    assert not rows_agree(row, {**row, "edit_sha256": "0" * 64})


OTHERS = (None, 7, "x", [], {}, True, [[1]], {"a": None}, float("inf"))


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_field_of_any_other_kind_is_read_or_refused_in_words(make_row, field):
    row = make_row(metrics={"retain_accuracy": 0.9})
    refused = 0
    for other in OTHERS:
        line = json.dumps({**row, field: other}).encode()
        try:
            parse_row(line, "rows, line 3")
        except ResultsError as error:
            refused += 1
            said = str(error)
            assert said.startswith("rows, line 3 "), said
            for python in ("argument after", "unhashable", "attribute", "subscript", "unpack"):
                assert python not in said, said
    without = {key: value for key, value in row.items() if key != field}
    if field in ("task", "modules", "git", "records_sha256", "peak_memory_bytes"):
        return  # nobody needs them, or rows of earlier versions have none
    with pytest.raises(ResultsError, match=rf"'{field}'|has schema None"):
        parse_row(json.dumps(without).encode(), "rows, line 3")
