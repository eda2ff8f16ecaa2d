"""Files and folders that an agent reads are told apart by what is in them, not by their names."""

import hashlib
import importlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import leaderboard
from benchmarks.harness import agent_files as module
from benchmarks.harness.agent_files import agent_files
from benchmarks.harness.runner import run_cells
from benchmarks.harness.validation import validate_row
from benchmarks.report.aggregate import group_rows
from benchmarks.results import (
    AGENT_FILES,
    ROWS_FILE,
    Cell,
    append_row,
    differing_fields,
    read_rows,
    row_hash,
)

HERE = Path(__file__).parents[1]
OWN = '''
from pathlib import Path

from toy_editing import Searcher


class Follows(Searcher):
    """Does what the file says, and writes down that it did."""

    def __init__(self, policy="policies/one.txt", log=None):
        self.policy, self.log = Path(policy), log

    def learn(self, env_spec, budget, seed, out=None):
        self.best = [float(self.policy.read_text())]
        if self.log:
            with open(self.log, "a") as log:
                log.write("done ")
'''


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """A working directory with a policy, and the module of an agent that follows it."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_follows.py").write_text(OWN)
    importlib.invalidate_caches()
    Path("policies").mkdir()
    Path("policies/one.txt").write_text("0.25")


def cell_of(seed=0, **settings):
    settings = {"policy": "policies/one.txt", **settings}
    arguments = {"task": "toy", "model_seed": seed, "device": "cpu"}
    fields = ("mine", "toy_editing:Toy-v0", arguments, "own_follows:Follows", settings, seed, 5)
    return Cell(*fields, settings=settings)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def again(row, **changes):
    row = {**row, **changes}
    return {**row, "row_sha256": row_hash(row)}


def of_an_earlier_version(row):
    known = {key: value for key, value in row["fingerprints"].items() if key != AGENT_FILES}
    return again(row, fingerprints=known)


def lines(folder):
    return len((folder / ROWS_FILE).read_text().splitlines())


def test_a_row_knows_the_file_that_its_agent_read(tmp_path):
    (row,) = run_cells([cell_of()], tmp_path / "to")
    assert row["status"] == "finished", row["error"]
    assert row["fingerprints"][AGENT_FILES] == {"policies/one.txt": sha256("0.25")}
    assert row["metrics"]["retain_accuracy"] == 0.75
    assert validate_row(row, tmp_path / "to").problems == ()


def test_a_cell_is_run_again_when_its_agents_file_is_another(tmp_path, capsys):
    cells = [cell_of(seed) for seed in range(2)]
    run_cells(cells, tmp_path / "to")
    run_cells(cells, tmp_path / "to")
    assert lines(tmp_path / "to") == 2
    Path("policies/one.txt").write_text("0.75")
    rows = run_cells(cells[:1], tmp_path / "to")
    assert lines(tmp_path / "to") == 3, "the cell that is asked for"
    assert rows[0]["fingerprints"][AGENT_FILES] == {"policies/one.txt": sha256("0.75")}
    said = "run again, since policies/one.txt is another now: toy_editing:Toy-v0"
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(said) == 1
    Path("policies/one.txt").unlink()
    run_cells(cells, tmp_path / "to")
    assert lines(tmp_path / "to") == 3, "what is not here cannot be read again"


def test_validate_notices_that_the_file_is_another(tmp_path, capsys):
    (row,) = run_cells([cell_of()], tmp_path / "to")
    assert leaderboard.main(["validate", str(tmp_path / "to"), "--all"]) == 0
    Path("policies/one.txt").write_text("0.75")
    assert leaderboard.main(["validate", str(tmp_path / "to"), "--all"]) == 1
    said = f"policies/one.txt, which the agent read: recorded {sha256('0.25')}, here "
    assert said + sha256("0.75") in capsys.readouterr().out
    assert leaderboard.main(["validate", str(tmp_path / "to"), "--all", "--rerun", "1"]) == 1
    printed = capsys.readouterr().out
    assert "run again, its fingerprints is" in printed
    Path("policies/one.txt").unlink()
    assert validate_row(row, tmp_path / "to").problems == (), "the journal is its edit still"


def test_rows_of_earlier_versions_stay_what_they_were(tmp_path):
    """They are read, not asked for again, replayed, and agree with a run of today."""
    (row,) = run_cells([cell_of()], tmp_path / "to")
    old = of_an_earlier_version(row)
    (tmp_path / "to" / ROWS_FILE).unlink()
    append_row(tmp_path / "to" / ROWS_FILE, old)
    assert read_rows(tmp_path / "to" / ROWS_FILE) == [old]
    assert Cell.of(old).id == row["cell"]
    Path("policies/one.txt").write_text("0.75")
    assert run_cells([cell_of()], tmp_path / "to") == [old]
    assert lines(tmp_path / "to") == 1
    assert validate_row(old, tmp_path / "to").problems == ()
    assert differing_fields(old, row) == differing_fields(row, old) == []
    other = again(row, fingerprints={**row["fingerprints"], AGENT_FILES: {"x": "0" * 64}})
    assert differing_fields(row, other) == ["fingerprints"]


def test_rows_of_two_policies_under_one_name_are_two_agents(tmp_path):
    one = run_cells([cell_of(seed) for seed in range(2)], tmp_path / "one")
    Path("policies/one.txt").write_text("0.75")
    other = run_cells([cell_of(seed) for seed in range(2, 4)], tmp_path / "other")
    (group,) = group_rows([*one, *other])
    agents = sorted(standing.agent for standing in group.standings)
    assert agents == sorted(
        f"own_follows:Follows (SHA-256 of policies/one.txt={sha256(text)[:12]})"
        for text in ("0.25", "0.75")
    )
    (group,) = group_rows(one)
    assert [standing.agent for standing in group.standings] == ["own_follows:Follows"]


def test_merging_refuses_one_cell_of_two_policies(tmp_path, capsys):
    run_cells([cell_of()], tmp_path / "one")
    Path("policies/one.txt").write_text("0.75")
    run_cells([cell_of()], tmp_path / "other")
    folders = [str(tmp_path / name) for name in ("one", "other")]
    assert leaderboard.main(["merge", *folders, "--out", str(tmp_path / "to")]) == 2
    error = capsys.readouterr().err
    assert "has different results" in error
    assert "fingerprints" in error


def test_what_an_agent_writes_to_is_no_file_that_it_reads(tmp_path):
    Path("policies/log").write_text("begun ")
    (row,) = run_cells([cell_of(log="policies/log")], tmp_path / "to")
    assert row["fingerprints"][AGENT_FILES] == {
        "policies/one.txt": sha256("0.25"),
        "policies/log": None,
    }
    assert run_cells([cell_of(log="policies/log")], tmp_path / "to") == [row]
    assert validate_row(row, tmp_path / "to").problems == ()


def test_a_folder_is_known_by_all_that_is_in_it():
    Path("policies/deep/er").mkdir(parents=True)
    Path("policies/deep/er/weights").write_bytes(b"\x00\x01")
    seen = [agent_files(cell_of(policy="./policies"))["./policies"]]

    def changed():
        seen.append(agent_files(cell_of(policy="./policies"))["./policies"])
        assert len(set(seen)) == len(seen)

    Path("policies/deep/er/weights").write_bytes(b"\x00\x02")
    changed()
    Path("policies/deep/er/weights").rename("policies/deep/er/biases")
    changed()
    Path("policies/more").write_text("")
    changed()
    Path("policies/more").unlink()
    Path("policies/deep/__pycache__").mkdir()
    Path("policies/deep/__pycache__/x.pyc").write_text("compiled")
    assert agent_files(cell_of(policy="./policies"))["./policies"] == seen[-2]


def test_a_file_that_was_written_in_the_same_moment_is_read_again():
    file = Path("policies/one.txt")
    before, state = agent_files(cell_of()), file.stat()
    file.write_text("0.75")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert agent_files(cell_of()) != before


@pytest.mark.parametrize(
    "text", [".", "..", "/", "~", "policies", "", " ", "x" * 5_000, "a\0b", "os:path", "nowhere/x"]
)
def test_a_text_that_may_mean_anything_is_no_folder(text):
    assert agent_files(cell_of(policy=text)) == {}


def test_a_folder_that_holds_a_disk_has_no_hash(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3)
    for number in range(5):
        Path(f"policies/{number}").write_text("")
    assert agent_files(cell_of(policy="./policies")) == {"./policies": None}


def test_agents_of_the_catalogue_say_which_settings_name_folders():
    Path("policies/policy.pt").write_bytes(b"weights")
    for agent, name in (("rledit", "start_from"), ("hiedit", "low_level"), ("mend", "start_from")):
        cell = replace(cell_of(), agent=agent, agent_config={})
        named = replace(cell, settings={name: "policies", "rule": "policies"})
        assert list(agent_files(named)) == ["policies"]
        assert agent_files(replace(cell, settings={name: None, "rule": "policies"})) == {}


def test_texts_within_lists_and_objects_are_seen():
    cell = cell_of(policy={"all": ["policies/one.txt", 3, None]})
    assert agent_files(cell) == {"policies/one.txt": sha256("0.25")}
    assert json.loads(json.dumps(agent_files(cell))) == agent_files(cell)


def test_rows_of_another_version_of_the_agents_module_are_kept_and_told_apart(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delitem(sys.modules, "own_follows", raising=False)  # another test's
    cells = [cell_of(seed) for seed in range(2)]
    run_cells(cells[:1], tmp_path / "to")
    assert "another version" not in capsys.readouterr().err
    (tmp_path / "own_follows.py").write_text(f"{OWN}\n# changed\n")
    rows = run_cells(cells, tmp_path / "to")
    assert lines(tmp_path / "to") == 2, "nothing that was measured is measured again"
    said = "own_follows:Follows: 1 rows were measured with another version of its module"
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count(said) == 1
    (group,) = group_rows(rows)
    assert [standing.n for standing in group.standings] == [1, 1]
    assert all("SHA-256 of own_follows=" in one.agent for one in group.standings)
