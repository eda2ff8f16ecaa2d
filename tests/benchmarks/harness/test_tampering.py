"""Whatever is changed in a folder of results, `validate --all` names it, and exits with 1."""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import envs_registry
from benchmarks import leaderboard
from benchmarks.harness.runner import run_cells
from benchmarks.harness.validation import record_differences
from benchmarks.results import ROWS_FILE, Cell, append_row, read_rows, records_file, row_hash
from benchmarks.results.rows import TIME_KEYS
from benchmarks.suites.cells import SUITES, cells
from benchmarks.suites.entry import Entry, Suite
from envs_registry import Environment

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The toy stream, where it can be imported from."""
    monkeypatch.syspath_prepend(HERE)
    row = Environment(
        "ToyStream-v0", "toy_editing:ToyStreamEnv", evaluation_kwargs={"split": "test"}
    )
    monkeypatch.setattr(envs_registry, "ENVIRONMENTS", (*envs_registry.ENVIRONMENTS, row))
    importlib.import_module("toy_editing")
    agents = ("toy_editing:StreamEditor",)
    entry = Entry("ToyStream-v0", "toy stream", agents, seed_kwarg="stream_seed")
    monkeypatch.setitem(SUITES, "stream", Suite("stream", 40, (entry,)))


@pytest.fixture
def results(tmp_path):
    """A folder with four rows, and the rows."""
    folder = tmp_path / "results"
    rows = run_cells(cells(SUITES["stream"], seeds=4), folder)
    assert [row["status"] for row in rows] == ["finished"] * 4
    return folder, rows


def write(folder, rows, *lines):
    (folder / ROWS_FILE).unlink()
    for row in rows:
        append_row(folder / ROWS_FILE, row)
    with (folder / ROWS_FILE).open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def again(row, **changes):
    """A row that was changed and hashed again."""
    row = {**row, **changes}
    return {**row, "row_sha256": row_hash(row)}


def of_its_cell(row, **changes):
    """A row whose cell was changed, named and hashed again."""
    row = {**row, **changes}
    return again(row, cell=Cell.of(row).id)


def nested(depth):
    return {"x": nested(depth - 1)} if depth else 7


def scored_again(times):
    """What the row of an edit says that was scored again so often."""
    made_from = {"cell": "0" * 64, "set": {"x": 1}, "before": {}}
    return {**made_from, "rescored_from": scored_again(times - 1)} if times else made_from


def better(row):
    return {**row["metrics"], "reliability": 1.0}


def told(folder, row):
    """Let the journal tell other facts in its last step."""
    tensors = load_file(folder / row["edit_file"])
    name = max(name for name in tensors if tensors[name].numel() == 2)
    with (folder / row["edit_file"]).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size)).get("__metadata__")
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / row["edit_file"], metadata)
    return hashlib.sha256((folder / row["edit_file"]).read_bytes()).hexdigest()


def records_of(folder, row):
    file = folder / records_file(row["cell"])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[3]["answer"] = lines[3]["target"] + "!"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return hashlib.sha256(file.read_bytes()).hexdigest()


EDIT = ("edit_file", "edit_sha256", "edit_bytes")


def scored_of_nothing(folder, row):
    """A row that says that its edit is of another cell, which there cannot be."""
    made_from = {"cell": "0" * 64, "set": {"z": 1}, "before": {}}
    new = of_its_cell(row, rescored_from=made_from)
    for name in ("edits/{}.safetensors", "records/{}.jsonl"):
        shutil.copy(folder / name.format(row["cell"]), folder / name.format(new["cell"]))
    return again(new, edit_file=f"edits/{new['cell']}.safetensors")


def outside(folder, row):
    shutil.copy(folder / row["edit_file"], folder.parent / "elsewhere.safetensors")
    return again(row, edit_file="../elsewhere.safetensors")


def link_outside(folder, row):
    away = folder.parent / "elsewhere.safetensors"
    shutil.move(folder / row["edit_file"], away)
    (folder / row["edit_file"]).symlink_to(away)
    return row


def swapped(folder, row):
    other = read_rows(folder / ROWS_FILE)[1]
    shutil.copy(folder / other["edit_file"], folder / row["edit_file"])
    return row


TAMPERINGS = {
    "its SHA-256 differs": {
        "a metric": lambda _, row: {**row, "metrics": better(row)},
        "the time": lambda _, row: {**row, "time": {**row["time"], "edit_s": 1e-9}},
        "the hash": lambda _, row: {**row, "row_sha256": "0" * 64},
        "no hash": lambda _, row: {**row, "row_sha256": None},
        "the journal": lambda folder, row: told(folder, row) and row,
        "another row's journal": swapped,
        "the records": lambda folder, row: records_of(folder, row) and row,
    },
    "reliability: recorded": {
        "a metric, hashed again": lambda _, row: again(row, metrics=better(row)),
        "the journal, hashed again": lambda folder, row: again(row, edit_sha256=told(folder, row)),
        "another seed, named again": lambda _, row: of_its_cell(
            row, env_kwargs={**row["env_kwargs"], "stream_seed": 11}, seed=11
        ),
    },
    "curve retention": {
        "a curve, hashed again": lambda _, row: again(row, curves={"retention": [[0, 1.0]]}),
    },
    "records differ": {
        "records, hashed again": lambda folder, row: again(
            row, records_sha256=records_of(folder, row)
        ),
    },
    "is not of its cell": {
        "the seed, hashed again": lambda _, row: again(row, seed=9),
        "the settings, hashed again": lambda _, row: again(row, settings={"told": 7}),
    },
    "is missing: replayed": {
        "no metrics, hashed again": lambda _, row: again(row, metrics={}),
        "one metric left, hashed again": lambda _, row: again(
            row, metrics={"locality": row["metrics"]["locality"]}
        ),
    },
    "journals lie at edits/CELL": {
        "a path outside": outside,
        "another row's journal, by its name": lambda folder, row: again(
            row, **{key: read_rows(folder / ROWS_FILE)[1][key] for key in EDIT}
        ),
    },
    "was set, which decides the edit": {
        "an edit of a cell that it is not": scored_of_nothing,
    },
    "leads out of": {"a link outside": link_outside},
    "is missing": {
        "no journal": lambda folder, row: (folder / row["edit_file"]).unlink() or row,
    },
    "cannot be replayed": {
        "another agent's environment": lambda _, row: of_its_cell(row, env_id="Nowhere-v0"),
    },
}


@pytest.mark.parametrize(
    ("message", "how"),
    [
        pytest.param(message, how, id=name)
        for message, ways in TAMPERINGS.items()
        for name, how in ways.items()
    ],
)
def test_every_tampering_is_named(results, message, how, capsys):
    folder, rows = results
    write(folder, [how(folder, rows[0]), *rows[1:]])
    assert leaderboard.main(["validate", str(folder), "--all"]) == 1
    printed = capsys.readouterr().out
    assert message in printed
    assert printed.count("DIFFERS") == 1
    assert "4 of 4 rows checked\n3 of 4 rows reproduced" in printed


def test_rows_are_checked_as_asked(results, capsys):
    folder, rows = results
    assert leaderboard.main(["validate", str(folder), "--all"]) == 0
    assert "4 of 4 rows checked\n4 of 4 rows reproduced" in capsys.readouterr().out
    named = ",".join(row["cell"][:16] for row in rows[:2])
    assert leaderboard.main(["validate", str(folder), "--rows", named]) == 0
    assert "2 of 4 rows checked\n2 of 2" in capsys.readouterr().out
    assert leaderboard.main(["validate", str(folder), "--rows", "zz"]) == 2
    assert "rows: 'zz' begins 0 of 4 finished rows' cells" in capsys.readouterr().err
    drawn = []
    for _ in range(2):
        arguments = ["validate", str(folder), "--sample", "2", "--seed", "3"]
        assert leaderboard.main(arguments) == 0
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1]
    assert "2 of 4 rows checked, drawn by --seed 3" in drawn[0]


def test_what_was_drawn_is_told_before_the_work_and_with_its_seed(results, capsys):
    folder, rows = results
    arguments = ["validate", str(folder), "--sample", "3", "--rerun", "2", "--seed", "7"]
    assert leaderboard.main(arguments) == 0
    first, second, *verdicts, checked, reproduced = capsys.readouterr().out.splitlines()
    drawn = first.removeprefix("to be replayed, drawn by --seed 7: ").split(", ")
    again = second.removeprefix("to be run again, drawn by --seed 7: ").split(", ")
    assert len(drawn) == 3
    assert len(again) == 2
    assert set(again) < set(drawn) < {row["cell"][:12] for row in rows}
    oks = [line for line in verdicts if line.startswith("ok  ")]
    assert [line.rpartition("  ")[2] for line in oks] == drawn
    ran = [verdicts[place - 1] for place, line in enumerate(verdicts) if "run again by" in line]
    assert [line.rpartition("  ")[2] for line in ran] == again
    assert checked == ("3 of 4 rows checked, drawn by --seed 7; 2 run again, drawn by --seed 7")
    assert reproduced == "3 of 3 rows reproduced"


def test_of_all_rows_the_ones_that_are_run_again_are_drawn_and_told(results, capsys):
    folder, rows = results
    assert leaderboard.main(["validate", str(folder), "--all", "--rerun", "1", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    first, *_, checked, _ = printed.splitlines()
    cell = first.removeprefix("to be run again, drawn by --seed 3: ")
    assert cell in {row["cell"][:12] for row in rows}
    commit = rows[0]["git"]
    assert f"run again by the code {commit}; the row is by {commit}" in printed
    assert checked == "4 of 4 rows checked; 1 run again, drawn by --seed 3"
    assert leaderboard.main(["validate", str(folder), "--all", "--rerun", "9"]) == 0
    assert "to be run again: " in capsys.readouterr().out, "all of them: nothing was drawn"


def test_without_a_seed_another_draw_is_made_each_time_and_its_seed_is_told(
    results, capsys, monkeypatch
):
    folder, _ = results
    for seed in (5, 6):
        monkeypatch.setattr(
            "benchmarks.harness.checking.secrets.randbelow", lambda _, seed=seed: seed
        )
        assert leaderboard.main(["validate", str(folder), "--sample", "1"]) == 0
        assert f"drawn by --seed {seed}" in capsys.readouterr().out


def test_only_learning_again_tells_what_a_replay_cannot(results, capsys):
    folder, rows = results
    liar = again(rows[0], reward_calls=0, access="data")
    write(folder, [liar, *rows[1:]])
    assert leaderboard.main(["validate", str(folder), "--all"]) == 0
    capsys.readouterr()
    assert leaderboard.main(["validate", str(folder), "--all", "--rerun", "4"]) == 1
    printed = capsys.readouterr().out
    assert f"run again, its access is {rows[0]['access']!r}, recorded 'data'" in printed
    assert "4 of 4 rows checked; 4 run again\n3 of 4 rows reproduced" in printed


def test_a_run_on_another_processor_says_so(results, capsys):
    folder, rows = results
    here = rows[0]["hardware"]
    brass = {**here, "cpu": "Difference Engine No. 2", "instructions": "BRASS"}
    earlier = {key: value for key, value in here.items() if key != "instructions"}
    made = [again(rows[0], hardware=brass), again(rows[1], hardware=earlier), *rows[2:]]
    write(folder, made)
    assert leaderboard.main(["validate", str(folder), "--all", "--rerun", "4"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the row is of Difference Engine No. 2, BRASS): sums may") == 1
    assert printed.count("with instructions that it does not record): sums may") == 1
    assert printed.count("sums may") == 2


@pytest.mark.parametrize("part", ["suite", "env_kwargs"])
def test_a_row_with_a_module_that_ends_its_process_ends_nothing(
    results, tmp_path, capsys, monkeypatch, part
):
    folder, rows = results
    (tmp_path / "ending.py").write_text("raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    named = {"suite": "ending:SUITE", "env_kwargs": {**rows[0]["env_kwargs"], "own": "ending:x"}}
    write(folder, [of_its_cell(rows[0], **{part: named[part]}), *rows[1:]])
    assert leaderboard.main(["validate", str(folder), "--all"]) == 1
    printed = capsys.readouterr().out
    assert "4 of 4 rows checked\n3 of 4 rows reproduced" in printed
    if part == "suite":
        assert "cannot be replayed: the module of ending:SUITE ends its process" in printed
    row = of_its_cell(rows[0], **{part: named[part]})
    write(folder, [again(row, edit_file=None, edit_sha256=None, edit_bytes=None), *rows[1:]])
    assert leaderboard.main(["report", str(folder)]) == 0


def test_lines_that_are_no_rows_are_named_and_the_others_checked(results, capsys):
    folder, rows = results
    lacking = {key: value for key, value in rows[0].items() if key != "curves"}
    write(folder, rows[1:], "{no json", json.dumps(lacking), json.dumps({"schema": 99}))
    assert leaderboard.main(["validate", str(folder), "--all"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("DIFFERS") == 3
    for message in ("line 4 is not JSON", "lacks a field of its schema, 'curves'", "schema 99"):
        assert message in printed
    assert "3 of 6 rows checked\n3 of 3 rows reproduced\n3 of 6 rows were changed" in printed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metrics": None}, "metrics is null, and must be an object"),
        ({"metrics": {"reliability": "x"}}, 'metrics.reliability is "x", and must be a finite'),
        ({"metrics": {"reliability": True}}, "metrics.reliability is true, and must be a finite"),
        ({"metrics": {"a\nb": 1}}, r'metrics has the name "a\nb", and names must be on one line'),
        ({"metrics": {"reliability": -1.7e308}}, "metrics.reliability is -1.7e+308, and must be"),
        ({"time": dict.fromkeys(TIME_KEYS, 1e308)}, "time.train_s is 1e+308, and must be 0 or"),
        ({"curves": {"retention": [[0, 1e101]]}}, "two finite numbers each, up to 1e+100"),
        (
            {"metrics": {"reliability": 10**400}},
            "and must be a finite number up to 1e+100, or null",
        ),
        ({"time": {}}, "time has no train_s"),
        ({"time": dict.fromkeys(TIME_KEYS, -1)}, "time.train_s is -1, and must be 0 or more"),
        ({"curves": {}}, "curves has no retention"),
        ({"curves": {"retention": "x"}}, 'curves.retention is "x", and must be a list of points'),
        ({"curves": {"retention": [[1]]}}, "curves.retention is [[1]], and must be a list"),
        ({"versions": None}, "versions is null, and must be an object"),
        ({"versions": {"torch": 2}}, "versions.torch is 2, and must be a text, or null"),
        ({"hardware": {}}, "hardware has no cpu"),
        ({"access": 1}, "access is 1, and must be a text"),
        ({"access": None}, "access is null, and must be one of reward, gradient, data, oracle"),
        ({"access": "none"}, 'access is "none", and must be one of reward, gradient'),
        ({"error": "x"}, 'error is "x", and must be null in a row that is finished'),
        ({"reward_calls": "7"}, 'reward_calls is "7", and must be 0 or more, a whole number'),
        (
            {"access": "reward", "reward_calls": 9, "budget": {"reward_calls": 8}},
            "reward_calls is 9, and must be 8 or less, its budget, in a finished row of the access",
        ),
        ({"reward_calls": -7}, "reward_calls is -7, and must be 0 or more, a whole number"),
        ({"peak_memory_bytes": 2**63}, "peak_memory_bytes is 9223372036854775808, and must be"),
        ({"budget": {"reward_calls": True}}, "budget.reward_calls is true, and must be 0 or"),
        ({"git": 7}, "git is 7, and must be a text, or null"),
        ({"modules": {"m": []}}, "modules.m is [], and must be a text, or null"),
        ({"fingerprints": {"agent_files": "x"}}, 'fingerprints.agent_files is "x", and must be'),
        ({"records_sha256": "x"}, 'records_sha256 is "x", and must be a SHA-256'),
        ({"seed": "0"}, 'seed is "0", and must be a whole number'),
        ({"status": "done"}, 'status is "done", and must be one of finished, failed'),
        ({"cell": "x\nok  all"}, "and must be the name of a cell, 64 hexadecimal digits"),
        ({"task": "another"}, 'task is "another", and env_kwargs.task "toy stream"'),
        ({"task": 7, "env_kwargs": {"task": 7}}, "task must be a text on one line, got 7"),
        ({"agent": "x\x1b[2J"}, r"agent must be a text on one line, got 'x\x1b[2J'"),
        ({"agent": "half \ud800"}, "is not JSON (a text in it holds half of a character)"),
        ({"agent_config": nested(200)}, "is not JSON (brackets within brackets have no end)"),
        ({"rescored_from": None}, "rescored_from is not of its form"),
        ({"rescored_from": {"set": {"x": 1}}}, "rescored_from is not of its form"),
        ({"rescored_from": {"cell": "0" * 64, "set": {}}}, "rescored_from is not of its form"),
        ({"rescored_from": {"cell": "0" * 64, "set": ["x"]}}, "rescored_from is not of its form"),
        (
            {"rescored_from": {"cell": "0" * 64, "set": {"x": 1}, "before": {"y": 1}}},
            "rescored_from is not of its form",
        ),
        ({"rescored_from": scored_again(200)}, "brackets within brackets have no end"),
    ],
)
def test_what_no_measurement_gives_is_no_row(results, capsys, changes, said):
    folder, rows = results
    write(folder, rows[1:], json.dumps(again(rows[0], **changes)))
    for command in (["report", str(folder)], ["validate", str(folder), "--all"]):
        assert leaderboard.main(command) == (2 if command[0] == "report" else 1)
        printed = capsys.readouterr()
        assert "line 4 is not " in printed.out + printed.err
        assert said in printed.out + printed.err


def test_of_forty_rows_the_changed_ones_are_all_named(tmp_path, capsys):
    folder = tmp_path / "many"
    rows = run_cells(cells(SUITES["stream"], seeds=40), folder)
    tampered = [
        (lambda row: {**row, "metrics": better(row)}, lambda row: again(row, metrics=better(row)))[
            place % 2
        ](row)
        for place, row in enumerate(rows[:35])
    ]
    write(folder, [*tampered, *rows[35:]])
    assert leaderboard.main(["validate", str(folder), "--all"]) == 1
    printed = capsys.readouterr().out
    assert "40 of 40 rows checked\n5 of 40 rows reproduced" in printed
    for row in rows[:35]:
        assert any(
            line.startswith("DIFFERS") and row["cell"][:12] in line for line in printed.splitlines()
        )


def test_records_of_an_earlier_version_may_lack_a_field(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text('{"edit": 0}\n{"edit": 1}\n')
    assert record_differences(file, [{"edit": 0, "new": None}, {"edit": 1, "new": None}]) == ()
    (problem,) = record_differences(file, [{"edit": 0}])
    assert problem == "records.jsonl: 2 records, replayed 1"
    assert record_differences(tmp_path / "none.jsonl", []) == ()
