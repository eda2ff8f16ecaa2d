"""Rows of schema 1: read as rows of schema 2, and found finished by the same suite command."""

import json
from pathlib import Path

import pytest

from benchmarks.results import ROWS_FILE, SCHEMA, Cell, ResultsError, read_rows
from benchmarks.results.files import parse_row
from benchmarks.results.migration import PUBLISHED, TABLE, key_of
from benchmarks.results.pin_rows import pinned_rows
from benchmarks.results.pin_settings import pinned, text_of
from benchmarks.suites.cells import SUITES, cells

RESULTS = Path(__file__).parents[2] / "docs" / "results"
FOLDERS = ("worlds", "bias", "paper", "lifelong")
# Cells of each suite, and how many of them no committed row finishes, as they were when rows still
# had schema 1. Since then the quick suite, which has no committed rows, has been made shorter, and
# lifelong has got 100 more cells.
UNFINISHED = {
    "quick": (57, 57),
    "worlds": (1355, 9),
    "lifelong": (740, 181),
    "full": (2095, 2095),
    "paper": (228, 0),
    "lifelong-ablations": (90, 18),
    "lifelong-checkpoints": (147, 72),
}


def written(folder):
    """The rows of schema 1, as they are in the file."""
    rows = map(json.loads, (RESULTS / folder / ROWS_FILE).read_text().splitlines())
    return [row for row in rows if row["schema"] == 1]


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The same rows, as they are read."""
    found = {}
    for folder in FOLDERS:
        file = tmp_path_factory.mktemp(folder) / ROWS_FILE
        file.write_text("".join(json.dumps(row) + "\n" for row in written(folder)))
        found[folder] = read_rows(file)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_committed_rows_keep_what_was_measured(committed, folder):
    rows, before = committed[folder], written(folder)
    latest = {row["cell"]: row for row in before}
    assert len(rows) == len(latest), "two cells of schema 1 have become one"
    for row, old in zip(rows, latest.values(), strict=True):
        assert (row["schema"], Cell.of(row).id) == (SCHEMA, row["cell"])
        same = set(old) - {"schema", "cell", "agent_config"}
        assert {key: row[key] for key in same} == {key: old[key] for key in same}
        assert {**row["agent_config"], **row["budget"]} == {
            "reward_calls": None,
            **old["agent_config"],
        }


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_table_knows_every_committed_row(folder):
    known = {key_of(*described) for *described, _ in json.loads(TABLE.read_text())["ran_with"]}
    for row in written(folder):
        config = {key: value for key, value in row["agent_config"].items() if key != "reward_calls"}
        assert key_of(row["env_id"], row["env_kwargs"], row["agent"], config) in known


@pytest.mark.parametrize("suite", UNFINISHED)
def test_the_same_suite_command_finds_finished_what_was_finished(committed, suite):
    settled = {
        row["cell"]
        for rows in committed.values()
        for row in rows
        if row["status"] in ("finished", "unsupported")
    }
    wanted = [cell.id for cell in cells(SUITES[suite])]
    waiting = sum(cell not in settled for cell in wanted)
    assert (len(wanted), waiting) == UNFINISHED[suite]


def test_the_committed_hashes_are_those_of_the_committed_rows():
    hashes = pinned_rows([RESULTS / folder for folder in FOLDERS])
    assert hashes == json.loads(PUBLISHED.read_text())
    assert len(hashes) == sum(len(written(folder)) for folder in FOLDERS)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_row_that_is_none_of_the_published_ones_is_not_read(tmp_path):
    old, other, *_ = written("worlds")
    better = {**old, "metrics": {**old["metrics"], "retain_accuracy": 1.0}}
    changes = (
        better,
        {**old, "seed": 77},
        {**old, "time": {**old["time"], "edit_s": 1e-9}},
        {**old, "agent": "mine:Agent"},
        {**old, "edit_file": other["edit_file"]},
    )
    for changed in changes:
        (tmp_path / ROWS_FILE).write_text(lines(other, changed))
        with pytest.raises(ResultsError, match=r"line 2, cell .* none of those that were publ"):
            read_rows(tmp_path / ROWS_FILE)
        (tmp_path / ROWS_FILE).write_text(lines(other, parse_row(lines(changed).encode(), "x")))
        with pytest.raises(ResultsError, match=r"line 2, cell .* none of those that were publ"):
            read_rows(tmp_path / ROWS_FILE)
    (tmp_path / ROWS_FILE).write_text(lines(other, old))
    assert len(read_rows(tmp_path / ROWS_FILE)) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"retain_accuracy": 1.0}},
        {"modules": {"mine": "0" * 64}},
        {"edit_bytes": 7},
        {"fingerprints": {"model": "0" * 64, "data": None, "files": None}},
        {"agent_config": {}},
        {"migrated_from": True},
        {"migrated_from": 2},
    ],
)
def test_what_is_said_to_be_migrated_is_what_was_migrated(tmp_path, changes):
    (old, *_) = (row for row in written("bias") if len(row["agent_config"]) > 1)
    row = parse_row(lines(old).encode(), "x")
    (tmp_path / ROWS_FILE).write_text(lines(row))
    assert read_rows(tmp_path / ROWS_FILE) == [row]
    (tmp_path / ROWS_FILE).write_text(lines({**row, **changes}))
    with pytest.raises(ResultsError, match="not the one that was written"):
        read_rows(tmp_path / ROWS_FILE)


def test_two_words_protect_no_row_of_schema_2(tmp_path, make_row):
    row = make_row(metrics={"retain_accuracy": 0.5})
    row |= {"metrics": {"retain_accuracy": 1.0}, "row_sha256": None, "migrated_from": 1}
    (tmp_path / ROWS_FILE).write_text(lines(row))
    with pytest.raises(ResultsError, match="none of those that were published"):
        read_rows(tmp_path / ROWS_FILE)


def test_a_row_that_the_table_does_not_know_keeps_what_was_typed():
    (old, *_) = written("worlds")
    own = {**old, "agent": "mine:Agent", "agent_config": {"reward_calls": 7, "rank": 2}}
    row = parse_row(lines(own).encode(), "x")
    assert (row["settings"], row["agent_config"], row["budget"]) == (
        {"rank": 2},
        {"rank": 2},
        {"reward_calls": 7},
    )


def test_pinning_tells_tuned_values_of_one_environment_from_those_of_another():
    rows = [
        {"env_id": "MaskWorld-v0", "env_kwargs": {"task": task}, "agent": "ssd", "agent_config": {}}
        for task in ("unlearning/digits", "unlearning/mnist")
    ]
    table = json.loads(text_of(pinned(rows)))
    assert [entry[-1] for entry in table["ran_with"]] == [0, len(table["settings"]) - 1]
