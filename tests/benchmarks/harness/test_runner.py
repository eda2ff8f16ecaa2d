import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from benchmarks import leaderboard
from benchmarks.harness.measure import run_cell
from benchmarks.harness.runner import Execution, RunnerError, run_cells
from benchmarks.results import ROWS_FILE, Cell, append_row, canonical_json, read_rows, rows_agree
from benchmarks.suites import entry as suites
from benchmarks.suites.cells import SUITES, cells
from benchmarks.suites.entry import Entry, Suite

HERE = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def toys(monkeypatch, tmp_path):
    """A suite `toy`, agents that can be imported here and in child processes, and an empty working
    directory."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setitem(suites.REWARD_CALLS, "toy", 5)
    monkeypatch.setitem(
        SUITES, "toy", Suite("toy", 2, (Entry("toy_editing:Toy-v0", "toy", (agent("Searcher"),)),))
    )
    monkeypatch.chdir(tmp_path)


def agent(name):
    return f"toy_editing:{name}"


def toy_cells(*names, seeds=2):
    return cells(SUITES["toy"], agents=[agent(name) for name in names], seeds=seeds)


def agree(a, b):
    return len(a) == len(b) and all(map(rows_agree, sorted(a, key=by_cell), sorted(b, key=by_cell)))


def by_cell(row):
    return row["cell"]


def side_files(folder):
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in folder.glob("*/*")}


def test_finished_cell(tmp_path):
    (row,) = run_cells(toy_cells("Searcher", seeds=1), tmp_path)
    assert (row["status"], row["error"], row["access"], row["reward_calls"]) == (
        "finished",
        None,
        "reward",
        5,
    )
    assert row["metrics"]["retain_accuracy"] > row["metrics"]["retain_accuracy_before"]
    assert all(value > 0 for value in row["time"].values())
    assert row["peak_memory_bytes"] > 2**20
    assert list(side_files(tmp_path)) == [row["edit_file"]]
    assert row["versions"]["torch"] == torch.__version__


def test_same_cell_twice_agrees_whatever_ran_before():
    cell = toy_cells("UsesGlobalGenerator", seeds=1)[0]
    first = run_cell(cell)
    run_cell(toy_cells("Searcher", seeds=1)[0])
    again = run_cell(cell)
    assert first.row["metrics"] == again.row["metrics"]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    run_cell(toy_cells("Broken", seeds=1)[0])
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("ignore:.*The reward is a NaN value")
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("Broken", r"ValueError: no luck"),
        ("Exits", r"SystemExit: enough"),
        ("NotFinite", "retain_accuracy.* is nan"),
        ("Overspender", r"asked for 6 rewards, but its budget is reward_calls=5"),
        ("SearchesWhileEditing", r"asked for 7 rewards, but its budget is reward_calls=5"),
    ],
)
def test_failed_cell_is_a_row_and_the_others_go_on(tmp_path, name, error):
    rows = run_cells(toy_cells(name, "Searcher", seeds=1), tmp_path)
    assert [row["status"] for row in rows] == ["failed", "finished"]
    assert rows[0]["access"] == "reward"
    assert rows[0]["edit_file"] is None
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(rows[0]["error"])


def test_an_agent_of_no_known_access_fails_before_it_runs(tmp_path):
    (row,) = run_cells(toy_cells("KnowsNoAccess", seeds=1), tmp_path)
    assert row["status"] == "failed"
    assert "access must be one of reward, gradient, data, oracle, got 'black-box'" in row["error"]


def test_unsupported_cell_is_no_failure_and_is_not_run_again(tmp_path):
    (row,) = run_cells(toy_cells("Incapable", seeds=1), tmp_path)
    assert (row["status"], row["access"], row["error"]) == (
        "unsupported",
        "oracle",
        "toys cannot be retrained",
    )
    run_cells(toy_cells("Incapable", seeds=1), tmp_path)
    assert (tmp_path / ROWS_FILE).read_bytes().count(b"\n") == 1


def test_finished_cells_are_skipped_and_failed_ones_tried_again(tmp_path):
    chosen = toy_cells("Searcher", "Broken", seeds=1)
    run_cells(chosen, tmp_path)
    run_cells(chosen, tmp_path)
    written = [
        json.loads(line)["agent"] for line in (tmp_path / ROWS_FILE).read_text().splitlines()
    ]
    assert written == [agent("Searcher"), agent("Broken"), agent("Broken")]


@pytest.mark.parametrize("rows_kept", [0, 1, 2])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, rows_kept):
    chosen = toy_cells("Searcher", seeds=3)
    whole = run_cells(chosen, tmp_path / "whole")
    run_cells(chosen, tmp_path / "cut")
    file = tmp_path / "cut" / ROWS_FILE
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:rows_kept]) + lines[rows_kept][:100])
    assert agree(run_cells(chosen, tmp_path / "cut"), whole)
    assert agree(read_rows(file), whole)


def test_interrupt_keeps_what_is_finished(tmp_path, monkeypatch):
    chosen = toy_cells("Searcher", seeds=3)
    calls = []

    def interrupted(cell, place, kept):
        calls.append(cell)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_cell(cell, place)

    monkeypatch.setattr("benchmarks.harness.runner.run_cell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cells(chosen, tmp_path)
    assert [row["cell"] for row in read_rows(tmp_path / ROWS_FILE)] == [chosen[0].id]


def test_a_cell_without_a_row_is_an_error_that_names_it(tmp_path, monkeypatch, capsys):
    chosen = toy_cells("Searcher", seeds=3)
    whole = Execution.outcomes
    monkeypatch.setattr(
        Execution, "outcomes", lambda self, waiting, kept: whole(self, waiting[:1], kept)
    )
    with pytest.raises(RunnerError, match=r"2 of 3 cells have no row in .* seed 1: run the same"):
        run_cells(chosen, tmp_path)
    assert leaderboard.main(["run", "--suite", "toy", "--seeds", "3", "--out", "out"]) == 2
    assert "2 of 3 cells have no row" in capsys.readouterr().err


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    with (
        FileLock(tmp_path / f"{ROWS_FILE}.lock"),
        pytest.raises(RunnerError, match="another run is writing"),
    ):
        run_cells(toy_cells("Searcher"), tmp_path)


@pytest.mark.slow
@pytest.mark.isolated
def test_processes_give_the_same_rows_and_survive_a_worker_that_dies(tmp_path):
    chosen = toy_cells("Dies", "Searcher", "UsesGlobalGenerator")
    alone = run_cells([cell for cell in chosen if "Dies" not in cell.agent], tmp_path / "alone")
    rows = run_cells(chosen, tmp_path / "together", Execution(jobs=2))
    dead = [row for row in rows if "Dies" in row["agent"]]
    assert [row["status"] for row in dead] == ["failed"] * 2
    assert all("the worker process died" in row["error"] for row in dead)
    assert agree([row for row in rows if row not in dead], alone)


@pytest.mark.slow
@pytest.mark.isolated
@pytest.mark.parametrize(
    ("jobs", "env_id", "name"),
    [
        (1, "toy_editing:Toy-v0", "Slow"),
        (2, "toy_editing:Toy-v0", "Slow"),
        (2, "toy_editing:ToyStream-v0", "SlowStreamEditor"),
    ],
)
def test_run_that_is_killed_is_resumed(tmp_path, jobs, env_id, name):
    seed_kwarg = "stream_seed" if "Stream" in env_id else "model_seed"
    chosen = cells(Suite("toy", 8, (Entry(env_id, "toy", (agent(name),), seed_kwarg=seed_kwarg),)))
    script = (
        "from pathlib import Path\nfrom benchmarks.results import Cell\nfrom"
        f" benchmarks.harness.runner import *\nif __name__ == '__main__': run_cells({chosen!r},"
        f" Path('out'), Execution(jobs={jobs}))"
    )
    Path("killed.py").write_text(script)
    importable = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "killed.py"], env=importable, stderr=subprocess.DEVNULL
    )
    file = tmp_path / "out" / ROWS_FILE
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = read_rows(file)
    assert 2 <= len(survived) < len(chosen)
    rows = run_cells(chosen, tmp_path / "out")
    assert agree(rows, run_cells(chosen, tmp_path / "whole"))
    assert all(row in rows for row in survived)  # time and all: they were not run again
    assert side_files(tmp_path / "out") == side_files(tmp_path / "whole")
    assert len(side_files(tmp_path / "out")) == (16 if "Stream" in env_id else 8)


def test_ray_is_asked_for_by_the_name_of_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunnerError, match=r"editgym\[scale\]"):
        run_cells(toy_cells("Searcher"), tmp_path, Execution(ray_address="auto"))


def test_every_agent_that_is_compared_with_others_has_the_same_budget():
    for suite in SUITES.values():
        budgets = {}
        for cell in cells(suite):
            compared = {key: value for key, value in cell.env_kwargs.items() if key != "model_seed"}
            budgets.setdefault((cell.env_id, canonical_json(compared)), set()).add(
                cell.reward_calls
            )
        assert all(len(amounts) == 1 for amounts in budgets.values())


def test_suites_as_promised():
    assert {cell.seed for cell in cells(SUITES["quick"])} == {0, 1, 2}
    worlds = cells(SUITES["worlds"])
    assert (
        len({cell.id for cell in worlds})
        == len(worlds)
        == (2 * (19 * (10 + 10) + 9 * (10 + 10)) + (6 + 19) * 3 + (5 + 3 + 3 + 5) * 10)
    )
    assert all(cell.env_kwargs["model_seed"] == cell.seed for cell in worlds)
    named = cells(SUITES["worlds"], agents=["ppo", "no_edit", "ppo"], seeds=1)
    assert len({cell.id for cell in named}) == len(named)
    assert {cell.task for cell in cells(SUITES["worlds"], tasks=["unlearning/mnist"])} == {
        "unlearning/mnist"
    }
    assert {(cell.env_id, cell.task) for cell in cells(SUITES["full"])} == {
        (cell.env_id, cell.task) for suite in ("quick", "worlds") for cell in cells(SUITES[suite])
    }


def test_command_line_from_run_to_validate(tmp_path, capsys):
    assert leaderboard.main(["run", "--suite", "toy", "--out", "out"]) == 0
    printed = capsys.readouterr().out
    assert "rank  agent" in printed
    assert printed.rstrip().endswith(str(tmp_path / "out" / "index.html"))
    assert leaderboard.main(["report", "out"]) == 0
    assert leaderboard.main(["validate", "out", "--sample", "2"]) == 0
    assert "2 of 2 rows reproduced" in capsys.readouterr().out


def test_failure_shows_in_the_exit_code(capsys):
    assert (
        leaderboard.main(["run", "--suite", "toy", "--agents", agent("Broken"), "--seeds", "1"])
        == 1
    )
    captured = capsys.readouterr()
    assert "no luck" in captured.out
    assert "1 of 1 cells failed" in captured.err
    assert Path("runs/toy/index.html").is_file()


def test_a_failure_that_repeats_is_told_in_full_once(tmp_path, capsys):
    run_cells(toy_cells("Broken", seeds=3), tmp_path)
    printed = capsys.readouterr()
    told = printed.out + printed.err
    assert (told.count("FAILED"), told.count("Traceback"), told.count("(as above)")) == (3, 1, 2)


def test_validate_says_by_how_much_a_row_differs(tmp_path, capsys):
    leaderboard.main(["run", "--suite", "toy", "--out", "out", "--seeds", "1"])
    file = tmp_path / "out" / ROWS_FILE
    (row,) = read_rows(file)
    row["metrics"]["retain_accuracy"] += 0.25
    file.unlink()
    append_row(file, row)
    capsys.readouterr()
    assert leaderboard.main(["validate", "out"]) == 1
    assert "differs by 0.25" in capsys.readouterr().out
    (tmp_path / "out" / row["edit_file"]).write_bytes(b"another")
    assert leaderboard.main(["validate", "out"]) == 1
    assert "SHA-256 differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--suite", "quik"], "unknown suite 'quik': did you mean quick"),
        (
            ["run", "--suite", "toy", "--tasks", "toys"],
            "unknown task of suite 'toy' 'toys': did you mean toy",
        ),
        (
            [
                "run",
                "--suite",
                "full",
                "--tasks",
                "debiasing/templates",
                "--envs",
                "LifelongLLMEdit-v0",
            ],
            "'debiasing/templates' is not in the --envs that were given: suite 'full' has it in",
        ),
        (
            ["run", "--suite", "toy", "--agents", "fine_tun"],
            "there is no 'fine_tun'; the nearest are fine_tune",
        ),
        (
            ["run", "--suite", "toy", "--agents", "nowhere_at_all:Agent"],
            "cannot import the module 'nowhere_at_all' of 'nowhere_at_all:Agent'",
        ),
        (
            ["run", "--suite", "toy", "--agents", "toy_editing:Nobody"],
            "the module 'toy_editing' has no 'Nobody'",
        ),
        (["run", "--suite", "toy", "--seeds", "0"], "seeds must be 1 or more, got 0"),
        (["run", "--suite", "toy", "--jobs", "0"], "jobs must be 1 or more, got 0"),
        (
            ["run", "--suite", "toy", "--gpus-per-cell", "0.5"],
            "gpus_per_cell is 0.5, and only Ray reserves GPUs: give --ray",
        ),
        (["run", "--suite", "toy", "--gpus-per-cell", "nan"], "gpus_per_cell must be 0 or more"),
        (["run", "--suite", "toy", "--time-limit", "0"], "time limit must be greater than 0"),
        (["run", "--suite", "toy", "--out", "file/out"], "file/out"),
        (["report", "nothing"], "no rows in nothing"),
        (["report", "file"], "file is a file, and must be a folder: give the folder with results"),
        (
            ["report", "rows"],
            "rows/results.jsonl is a folder, a pipe or a device, and must",
        ),
        (["validate", "rows"], "rows/results.jsonl is a folder, a pipe or a device"),
        (["run", "--suite", "toy", "--out", "rows"], "rows/results.jsonl is a folder, a pipe or"),
        (
            ["run", "--suite", "toy", "--agents", "./toy_editing.py:Searcher"],
            "'./toy_editing.py:Searcher' names a file, and must name a module: write"
            " toy_editing:Searcher",
        ),
        (
            ["run", "--suite", "toy", "--set", "toy_editing:Searcher.x=NaN"],
            "must be finite, got nan, which is not JSON compliant: give a number, or null",
        ),
        (["run", "--suite", "toy", "--out", "file"], "--out: cannot write to file: File exists"),
        (["run", "--suite", "toy", "--settings", "no.json"], "--settings: cannot read no.json"),
        (["validate", "nothing"], "no rows in nothing"),
        (["validate", "nothing", "--sample", "0"], "sample must be 1 or more, got 0"),
    ],
)
def test_command_line_errors(arguments, message, capsys, monkeypatch):
    Path("file").write_text("in the way")
    Path("rows/results.jsonl").mkdir(parents=True)
    monkeypatch.setattr(
        "benchmarks.harness.runner.run_cell", lambda *_: pytest.fail("worked before it checked")
    )
    assert leaderboard.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_foreign_schema_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    outcome = run_cell(toy_cells("Searcher", seeds=1)[0])
    append_row(tmp_path / ROWS_FILE, {**outcome.row, "schema": 0})
    monkeypatch.setattr(
        "benchmarks.harness.runner.run_cell", lambda *_: pytest.fail("worked before it checked")
    )
    assert leaderboard.main(["run", "--suite", "toy", "--out", str(tmp_path)]) == 2
    assert "has schema 0" in capsys.readouterr().err


def test_cell_can_be_written_down():
    cell = toy_cells("Searcher", seeds=1)[0]
    assert eval(repr(cell), {"Cell": Cell}) == cell
