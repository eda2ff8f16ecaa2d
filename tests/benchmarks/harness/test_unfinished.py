"""An edit that is interrupted in the middle of a cell goes on where it stopped."""

import dataclasses
import json
from collections import Counter

import pytest

from agents.editors.ultraedit import UltraEditAgent
from benchmarks.harness import measure, unfinished
from benchmarks.harness.measure import run_cell
from benchmarks.harness.processes import ProcessDiedError
from benchmarks.harness.runner import run_cells
from benchmarks.harness.unfinished import FOLDER, Unfinished, kept_folder
from benchmarks.results import rows_agree
from benchmarks.suites.cells import cells
from benchmarks.suites.entry import Entry, Suite

STEPS, STOP = 4, 2


def cell_of(agent="ultraedit"):
    entry = Entry(
        "LifelongLLMEdit-v0",
        "knowledge/factworld",
        (agent,),
        seed_kwarg=None,
        env_kwargs={"horizon": STEPS, "edits_per_step": 3},
    )
    return cells(Suite("own", 1, (entry,)))[0]


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    monkeypatch.setattr(unfinished, "_EVERY", 0.0)


@pytest.fixture
def interrupted(monkeypatch, tmp_path):
    """`interrupted(cell)`: the folder that a cell leaves whose edit stops before step `STOP`."""

    def run(cell):
        entries = UltraEditAgent.entries

        def stop(self, process):
            if process.step_index == STOP:
                raise KeyboardInterrupt
            return entries(self, process)

        with monkeypatch.context() as patched:
            patched.setattr(UltraEditAgent, "entries", stop)
            with pytest.raises(KeyboardInterrupt):
                run_cell(cell, kept=kept_folder(cell, tmp_path))
        return Unfinished(tmp_path, cell.id).folder

    return run


@pytest.fixture
def steps(monkeypatch):
    """How often each step was edited in this process."""
    made, advance = Counter(), UltraEditAgent.entries

    def counted(self, process):
        made[process.step_index] += 1
        return advance(self, process)

    monkeypatch.setattr(UltraEditAgent, "entries", counted)
    return made


def spent(folder, seconds):
    """Let the parts of an edit before its last one have taken so long."""
    file = folder / "begun.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": seconds}))


def test_it_goes_on_to_the_same_row(interrupted, steps, tmp_path):
    cell = cell_of()
    whole = run_cell(cell)
    assert steps == dict.fromkeys(range(STEPS), 1)
    folder = interrupted(cell)
    steps.clear()
    spent(folder, 1000.0)
    again = run_cell(cell, kept=kept_folder(cell, tmp_path))
    assert steps == dict.fromkeys(range(STOP, STEPS), 1)
    assert rows_agree(whole.row, again.row)
    assert (again.journal, again.records) == (whole.journal, whole.records)
    assert whole.row["time"]["edit_s"] < 1000 < again.row["time"]["edit_s"] < 1100


def test_the_run_goes_on_and_leaves_nothing_behind(interrupted, tmp_path):
    cell = cell_of()
    spent(interrupted(cell), 1000.0)
    (row,) = run_cells([cell], tmp_path)
    assert (row["status"], row["error"]) == ("finished", None)
    assert row["time"]["edit_s"] > 1000
    assert rows_agree(row, run_cell(cell).row)
    assert not (tmp_path / FOLDER).exists()


def test_what_other_software_has_begun_is_begun_anew(interrupted, steps, tmp_path):
    cell = cell_of()
    folder = interrupted(cell)
    spent(folder, 1000.0)
    file = folder / "made_by.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "versions": {**known["versions"], "torch": "0.1"}}))
    steps.clear()
    again = run_cell(cell, kept=kept_folder(cell, tmp_path))
    assert steps == dict.fromkeys(range(STEPS), 1)
    assert again.row["time"]["edit_s"] < 1000


def test_a_kill_before_the_first_checkpoint_is_begun_anew(interrupted, steps, tmp_path):
    cell = cell_of()
    folder = interrupted(cell)
    (folder / "checkpoint.pt").unlink()
    steps.clear()
    assert run_cell(cell, kept=kept_folder(cell, tmp_path)).row["status"] == "finished"
    assert steps == dict.fromkeys(range(STEPS), 1)


def test_what_cannot_be_gone_on_with_fails_once(interrupted, tmp_path):
    cell = cell_of()
    (interrupted(cell) / "checkpoint.pt").write_bytes(b"garbage")
    (row,) = run_cells([cell], tmp_path)
    assert row["status"] == "failed"
    assert "checkpoint.pt is damaged" in row["error"]
    (row,) = run_cells([cell], tmp_path)
    assert row["status"] == "finished"


@pytest.mark.parametrize(
    "error", [ProcessDiedError("killed by SIGKILL"), MemoryError(), ValueError("no such file")]
)
def test_an_edit_that_could_not_be_evaluated_is_not_made_again(error, steps, tmp_path, monkeypatch):
    cell = cell_of()

    def fails(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(measure, "evaluated", fails)
        (row,) = run_cells([cell], tmp_path)
    assert row["status"] == "failed"
    assert steps == dict.fromkeys(range(STEPS), 1)
    steps.clear()
    (row,) = run_cells([cell], tmp_path)
    assert (row["status"], steps) == ("finished", {})
    assert rows_agree(row, run_cell(cell).row)
    assert not (tmp_path / FOLDER).exists()


def test_cells_beside_it_keep_theirs(tmp_path):
    one, other = Unfinished(tmp_path, "one"), Unfinished(tmp_path, "other")
    one.keep({})
    other.keep({})
    one.forget()
    assert (one.folder.exists(), other.folder.exists()) == (False, True)
    other.forget()
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("earlier", [True, False], ids=["has run", "is to run"])
def test_nothing_is_gone_on_with_where_an_agent_of_ones_own(earlier, interrupted, steps, tmp_path):
    """It may have written what another agent's edit would go on from."""
    cell = cell_of()
    own = dataclasses.replace(cell, agent="own_agents:Own")  # there is no such module: it fails
    if earlier:
        run_cells([own], tmp_path)
    spent(interrupted(cell), 1000.0)
    rows = run_cells([cell] if earlier else [cell, own], tmp_path)
    assert rows[0]["status"] == "finished"
    assert rows[0]["time"]["edit_s"] < 1000


def test_an_agent_that_has_learned_begins_anew(tmp_path):
    """It would learn again first, and that takes longer."""
    cell = cell_of(("rledit", {"sequences": 1, "train_env": {"horizon": 1, "edits_per_step": 2}}))
    outcome = run_cell(cell, kept=kept_folder(cell, tmp_path))
    assert outcome.row["status"] == "finished", outcome.row["error"]
    left = {path.name for path in Unfinished(tmp_path, cell.id).folder.iterdir()}
    assert left == {"made_by.json"}
