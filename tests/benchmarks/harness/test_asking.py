"""A stranger's agent is asked what it is in a process of its own: none of its code runs in the one
that writes everybody's rows."""

import sys
import time
from dataclasses import replace

import pytest

from benchmarks import leaderboard
from benchmarks.harness.agent_files import agent_files
from benchmarks.harness.asking import check_agent, named_folders, settings_of
from benchmarks.harness.runner import run_cells
from benchmarks.harness.strangers import module_hashes
from benchmarks.results import ROWS_FILE, Cell, read_rows
from benchmarks.suites.cells import SUITES, cells

pytestmark = pytest.mark.isolated

AGENTS = """
import dataclasses, os, sys, time

from agents.black_box import NoEdit
from agents.configured import ConfiguredAgent, Settings, setting


class Exits(NoEdit):
    def __init__(self):
        raise SystemExit(0)


class Hangs(NoEdit):
    def __init__(self):
        time.sleep(1000)


class ExitsAtOnce(NoEdit):
    def __init__(self):
        os._exit(0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadsSettings(Settings):
    folder: str = setting("", names_folder=True)
    size: int = setting(3)


class Reads(NoEdit):
    settings_type = ReadsSettings

    def __init__(self, **config):
        super().__init__()
        self.settings = ReadsSettings.of(config)

    def resolved(self, spec):
        return self.settings
"""


@pytest.fixture(autouse=True)
def strange(tmp_path, monkeypatch):
    """A package with agents, which nothing may import here."""
    package = tmp_path / "strange_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "agents.py").write_text(AGENTS)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "weights").write_text("w")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    imported = [name for name in sys.modules if name.startswith("strange_package")]
    for name in imported:
        del sys.modules[name]
    assert imported == []


def cell_of(name, **config):
    arguments = {"task": "unlearning/digits", "device": "cpu"}
    return Cell("hostile", "MaskWorld-v1", arguments, f"strange_package.agents:{name}", config, 0)


def test_agents_that_end_their_process_when_they_are_made_have_a_row_and_take_none_along(strange):
    names = [f"strange_package.agents:{name}" for name in ("Exits", "ExitsAtOnce")]
    command = ["run", "--suite", "worlds", "--tasks", "unlearning/digits", "--seeds", "1"]
    command += ["--envs", "MaskWorld-v0", "--agents", ",".join(["no_edit", *names])]
    assert leaderboard.main([*command, "--out", str(strange / "out")]) == 1
    rows = {row["agent"]: row for row in read_rows(strange / "out" / ROWS_FILE)}
    assert rows["no_edit"]["status"] == "finished"
    assert [rows[name]["error"] for name in names] == [
        "SystemExit: 0",
        "the worker process died: it ended with exit code 0",
    ]
    assert set(rows[names[0]]["modules"]) == {"strange_package.agents"}


def test_an_agent_that_hangs_is_waited_for_once_and_not_longer_than_a_cell(strange, capsys):
    name, begin = "strange_package.agents:Hangs", time.monotonic()
    command = ["run", "--suite", "worlds", "--tasks", "unlearning/digits", "--seeds", "1"]
    command += ["--agents", name, "--time-limit", "3", "--out", str(strange / "out")]
    assert leaderboard.main(command) == 1
    assert time.monotonic() - begin < 60
    error = capsys.readouterr().err
    assert error.count(f"{name} did not say what it is within 3 s, and is not asked again") == 1
    rows = read_rows(strange / "out" / ROWS_FILE)
    assert len(rows) > 1
    assert all("there was no end after 3 s" in row["error"] for row in rows)


def test_who_is_waited_for_is_told(strange, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.asking._PATIENCE", 0.0)
    assert settings_of(cell_of("Reads", size=4))["size"] == 4
    said = "waiting for strange_package.agents:Reads to be imported and made, 600 s at most"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "__main__:Agent"},
        {"env_id": "__main__:Mine-v0"},
        {"suite": "__main__:SUITE"},
        {"env_kwargs": {"task": "__main__:build"}},
        {"settings": {"reward": "__main__:reward"}},
    ],
)
def test_what_stands_in_a_script_or_notebook_is_refused_at_once(strange, changes):
    cell = replace(cell_of("Reads"), **changes)
    with pytest.raises(ValueError, match=r"__main__:.*: an agent, .* must stand in a module"):
        run_cells([cell], strange / "out")
    assert not (strange / "out").exists()


def test_a_suite_has_no_cells_of_an_agent_in_a_script():
    with pytest.raises(ValueError, match=r"__main__:Agent: an agent, .* my_agents:Agent"):
        cells(SUITES["quick"], agents=["__main__:Agent"], settings_of=settings_of)


def test_settings_files_and_modules_are_known_without_an_import(strange):
    cell = cell_of("Reads", folder="policy")
    assert settings_of(cell) == {"folder": "policy", "size": 3}
    assert settings_of(cell_of("ExitsAtOnce")) == {}, "what was typed is all that is known"
    assert named_folders(cell.agent) == ["folder"]
    assert agent_files(cell)["policy"] is not None
    (found,) = module_hashes(cell).values()
    assert len(found) == 64


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("strange_package.agents:Nobody", "has no 'Nobody'"),
        ("strange_package.agents:ReadsSettings", "lacks learn, edit"),
        ("strange_package.nowhere:Agent", "cannot import the module 'strange_package.nowhere'"),
        ("nobody", "there is no 'nobody'"),
    ],
)
def test_what_is_no_agent_is_said(name, said):
    with pytest.raises(ValueError, match=said):
        check_agent(name)


def test_a_setting_that_is_refused_is_said():
    with pytest.raises(ValueError, match="unexpected keyword argument 'sise'"):
        settings_of(cell_of("Reads", sise=3))
