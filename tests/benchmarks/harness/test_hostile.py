"""Agents that are careless or dishonest: each is caught, and its cell failed with the reason, or it
is measured as its honest twin is; and no other cell's row changes."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness import isolation
from benchmarks.harness.isolation import Isolated
from benchmarks.harness.measure import run_cell
from benchmarks.harness.processes import Worker
from benchmarks.harness.runner import Execution, run_cells
from benchmarks.results import Cell, rows_agree

HERE = Path(__file__).parents[1]
# As `hostile_agents` has them, which is not imported here.
STEPS, BUDGET = 10, 11

AS_IF_HONEST = (
    "ChangesTestData",
    "PatchesEvaluate",
    "LeavesThread",
    "ChangesDtype",
    "PatchesClock",
    "WorksInItsConstructor",
    "ChangesItsAccess",
    "OverridesItsJournal",
)
EITHER = ("SpeaksAfterwards",)
UNASKED = r"the process sent b'.*'(, which is not its answer| before it was asked): it answers what"
GRADIENT = ("TakesGradients", "TakesGradientsUnguarded")
REASONS = {
    "ReadsTestData": "AccessError: task: an agent with the access reward has none; it is offered"
    " with data and oracle",
    "ReadsTestDataWithData": "AccessError: task.splits.test: for the harness",
    "EvaluatesItself": "AccessError: evaluate: what an edit does to test data is for the harness",
    "StealsOracle": "AccessError: task.oracle: for agents with the access oracle",
    "ReplacesMeter": "MeterError: editgym.envs.metering.record was replaced while the agent ran",
    "RewritesMeter": "MeterError: editgym.envs.metering._Counters.add was replaced",
    "EmptiesMeter": "MeterError: a meter of rewards was switched off while it was open",
    "Overspends": "BudgetExceededError: .* asked for 12 rewards, but its budget is reward_calls=11",
    "SearchesInSubprocesses": "BudgetExceededError: .* asked for 14 rewards",
    "SearchesInStableBaselines": "BudgetExceededError: .* asked for 16 rewards",
    "SearchesWithFakeSteps": "BudgetExceededError: .* asked for 20 rewards",
    "ChangesTheNetwork": "RuntimeError: weights: the unedited matrices, .* were changed in place",
    "AddsSteps": "ForbiddenEditError: the journal has edits of 11 steps, and an episode has 1",
    "ReplacesTensors": "ForbiddenEditError: entry 0 of the journal, replace_tensors: with the"
    " access reward there may be SiteEdit",
    "EditsAnotherSite": "ForbiddenEditError: .* site fc3 is not open; open are fc2",
    "UsesAnotherOperator": r"its operator is Shift\(limit=3.0\), the environment's Mask\(\)",
    "LeavesTheBox": "of rank full and bound 1.0, this is a DenseUpdate of rank full and bound None",
    "LeavesTheBoxOfActions": r"an action with a number of size 2, outside \[−1, 1\]",
    "HandsInNothing": "TypeError: .* must return the episode's EditJournal .* got NoneType",
    "ExitsAtOnce": "the worker process died: it ended with exit code 3",
    "TellsNoNumber": "MeterError: benchmarks.harness.learning.peak_memory_bytes was replaced while",
    "TellsNoAccess": r"ValueError: .* access must be one of reward, .*, got \['reward'\]",
    "ForgesBefore": UNASKED,
    "ForgesItsAccess": UNASKED,
    "ForgesTheEndOfLearning": UNASKED,
    "ForgesTheEndOfTheEdit": UNASKED,
    "ForgesAgain": "ValueError: the agent's process is at 'loaded', and 'learned' is next",
    "WritesWithoutEnd": "the process sent more than 4,194,304 bytes as one answer",
    "SearchesInItsConstructor": "BudgetExceededError: .* asked for 12 rewards",
    "ReadsTestDataInItsConstructor": "AccessError: task: an agent with the access reward has none",
    "SearchesInItsJournal": "BudgetExceededError: .* asked for 13 rewards",
    "EmptiesItsMeter": "MeterError: the meter learning/.* says 0 rewards, .* computed 10 and 0",
    "RemovesItsMeter": "MeterError: the meter learning/.* cannot be read",
    "LinksItsMeter": "MeterError: the meter learning/.* is a link: it must be a file of 16 bytes",
    "LeavesAFolderAmongMeters": "MeterError: the meter learning/1-0* is a folder, a pipe or a",
    "RaisesHalfACharacter": r"ValueError: half \\ud800 a character",
    "MovesTheCursor": r"ValueError: \\x1b\[2J\\x1b\[1;1Hall cells are finished\\r$",
    "IsKilled": r"the worker process died: killed by SIGKILL \(out of memory\?\)",
}

pytestmark = pytest.mark.isolated


def cell_of(agent, **changes):
    """A cell in which neither learning nor the evaluation takes long."""
    arguments = {"task": "unlearning/digits", "device": "cpu"}
    return replace(Cell("hostile", "MaskWorld-v1", arguments, agent, {}, 0, BUDGET), **changes)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The agents' module can be imported in other processes; this one does not import it."""
    monkeypatch.syspath_prepend(HERE)


def hostile(name):
    return f"hostile_agents:{name}"


def says(row, name):
    return row["status"] == "failed" and re.search(REASONS[name], row["error"]) is not None


def test_hostile_agents_fail_or_are_measured_rightly_and_change_no_other_row(tmp_path):
    names = [*AS_IF_HONEST, *EITHER, *GRADIENT, *REASONS]
    chosen = []
    for number, name in enumerate(names):
        chosen.append(cell_of(hostile(name)))
        if number % 9 == 0:  # in the same two processes, one after the other, all of them
            chosen.append(cell_of("random_actions", seed=number))
    twins = [cell_of(hostile("Honest")), *(one for one in chosen if one.agent == "random_actions")]
    rows = {
        row["cell"]: row for row in run_cells([*twins[:1], *chosen], tmp_path, Execution(jobs=2))
    }
    assert len(rows) == len(chosen) + 1

    twin = rows[twins[0].id]
    assert (twin["status"], twin["access"], twin["reward_calls"]) == ("finished", "reward", STEPS)
    for name in AS_IF_HONEST:
        row = {**rows[cell_of(hostile(name)).id]}
        own = {key: twin[key] for key in ("cell", "agent", "edit_file")}
        assert rows_agree({**row, **own}, twin), (name, row)
    clock = rows[cell_of(hostile("PatchesClock")).id]["time"]
    assert clock["train_s"] > 0.3
    assert clock["edit_s"] > 0
    assert rows[cell_of(hostile("WorksInItsConstructor")).id]["time"]["train_s"] > 0.3
    for name in EITHER:
        row = rows.pop(cell_of(hostile(name)).id)
        if row["status"] == "failed":
            assert re.search(UNASKED, row["error"])
        else:
            assert row["metrics"] == twin["metrics"]
    for name in GRADIENT:
        row = rows[cell_of(hostile(name)).id]
        assert (row["status"], row["access"], row["reward_calls"]) == ("finished", "gradient", 11)
        assert row["metrics"] == twin["metrics"]
    failed = {row["agent"].partition(":")[2]: row for row in rows.values() if row["error"]}
    assert sorted(failed) == sorted(REASONS)
    assert [(name, row["error"]) for name, row in failed.items() if not says(row, name)] == []
    for cell in twins[1:]:  # alone, and in this process
        assert rows_agree(rows[cell.id], run_cell(cell).row)


def test_a_module_that_reads_test_data_while_it_is_imported_fails(tmp_path):
    (row,) = run_cells([cell_of("hostile_module:Agent")], tmp_path)
    assert (row["status"], row["error"]) == (
        "failed",
        "AccessError: task: an agent with the access reward has none; it is offered with data and"
        " oracle",
    )


def test_looks_at_what_a_test_stream_came_to_are_paid_for(tmp_path):
    arguments = {"task": "knowledge/factworld", "horizon": 3, "edits_per_step": 2, "device": "cpu"}
    once, often = (
        Cell(
            "hostile",
            "LifelongLLMEdit-v1",
            arguments,
            hostile("SearchesTheTestStream"),
            {"tries": tries},
            0,
            5,
        )
        for tries in (1, 3)
    )
    honest, searching = run_cells([once, often], tmp_path)
    assert (honest["status"], honest["reward_calls"]) == ("finished", 0)
    assert searching["status"] == "failed"
    assert "asked for 6 rewards, but its budget is reward_calls=5" in searching["error"]


def test_what_the_constructor_was_offered_stands_in_the_row(tmp_path):
    (row,) = run_cells([cell_of(hostile("DeclaresLessOnceItIsMade"))], tmp_path)
    assert (row["status"], row["access"], row["error"]) == ("finished", "oracle", None)


def test_catalogue_agents_share_two_processes_and_a_stranger_has_one_of_its_own(monkeypatch):
    made = []
    monkeypatch.setattr(isolation, "Worker", lambda: made.append(Worker()) or made[-1])
    place = Isolated()
    numbers = []
    for agent in ("no_edit", hostile("ReadsTestData"), "random_actions"):
        run_cell(cell_of(agent), place)
        numbers.append(len(made))
    made[0].end()  # as if the system had killed it while it waits
    made[0]._process.join()
    row = run_cell(cell_of("no_edit"), place).row
    numbers.append(len(made))
    place.close()
    assert row["status"] == "finished"
    assert numbers == [2, 3, 3, 4]
    assert not any(worker.alive for worker in made)


def test_an_environment_that_only_the_agents_module_registers_is_missed_with_a_remedy():
    arguments = {"task": "toy", "model_seed": 0, "device": "cpu"}
    cell = cell_of("toy_editing:Searcher", env_id="Toy-v0", env_kwargs=arguments)
    place = Isolated()
    row = run_cell(cell, place).row
    place.close()
    assert row["status"] == "failed"
    assert "name the environment with its own, package.module:Toy-v0" in row["error"]


def test_a_hang_fails_with_the_time_limit():
    place = Isolated(time_limit=3.0)
    row = run_cell(cell_of(hostile("Hangs")), place).row
    place.close()
    assert (row["status"], row["access"]) == ("failed", "reward")
    assert row["error"] == "there was no end after 3 s, the time limit of a cell"


@pytest.mark.slow
def test_rewards_are_counted_in_processes_that_the_meter_was_hidden_from(tmp_path):
    (row,) = run_cells([cell_of(hostile("SearchesElsewhere"))], tmp_path)
    assert "asked for 14 rewards" in row["error"]  # a step in which an environment resets has none
